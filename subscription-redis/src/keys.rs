//! The names of keys.

use std::fmt::Write as _;

use subscription_core::{Timestamp, WindowKind};

/// `{prefix}:{tenant}:{window}:{start}`, or `{prefix}:{tenant}/{scope}:{window}:{start}` of a scope, the tenant in
/// braces: the hash tag, so that all keys of a tenant are in one slot of a cluster. Tenant and scope are percent-encoded,
/// so that no name reaches another's keys.
pub(crate) fn write(key: &mut String, prefix: &str, tenant: &str, scope: &str, kind: WindowKind, start: Timestamp) {
    key.push_str(prefix);
    key.push_str(":{");
    encode_tenant(key, tenant);
    key.push('}');
    if !scope.is_empty() {
        key.push('/');
        encode(key, scope);
    }
    // Writing to a String cannot fail.
    let _ = write!(key, ":{kind}:{}", start.millis().div_euclid(1_000));
}

/// The slot of a tenant's keys in a cluster.
pub(crate) fn slot(tenant: &str) -> u16 {
    let mut tag = String::with_capacity(tenant.len());
    encode_tenant(&mut tag, tenant);
    crc16(tag.as_bytes()) % 16_384
}

fn encode_tenant(key: &mut String, tenant: &str) {
    // An empty hash tag is none.
    if tenant.is_empty() { key.push('%') } else { encode(key, tenant) }
}

/// Percent-encodes all but letters, digits and `._:-`, which are all that a valid tenant id has.
fn encode(key: &mut String, name: &str) {
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b':' | b'-' => key.push(char::from(byte)),
            _ => {
                let _ = write!(key, "%{byte:02X}");
            }
        }
    }
}

/// CRC-16/XMODEM, by which a cluster finds the slot (Redis Cluster specification, appendix A).
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_these() {
        let at = Timestamp::from_millis(1_767_225_600_000);
        let key = |tenant, scope| {
            let mut key = String::new();
            write(&mut key, "usage", tenant, scope, WindowKind::Minute, at);
            key
        };
        assert_eq!(key("acme", ""), "usage:{acme}:1min:1767225600");
        assert_eq!(key("acme", "key:k/1"), "usage:{acme}/key:k%2F1:1min:1767225600");
        assert_eq!(key("a}b\n", ""), "usage:{a%7Db%0A}:1min:1767225600");
        assert_eq!(key("", ""), "usage:{%}:1min:1767225600");
    }

    #[test]
    fn slots_are_the_cluster_s() {
        // The specification's check value, and what `CLUSTER KEYSLOT` answers.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot("foo"), 12_182);
    }
}
