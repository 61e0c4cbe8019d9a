//! A message, and how it is written to the spool.

/// One record to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message<'a> {
    /// In milliseconds since the epoch; the time of sending where there is none.
    pub(super) timestamp: Option<i64>,
    pub(super) key: Option<&'a [u8]>,
    pub(super) payload: &'a [u8],
}

/// Neither a time that a record can have nor a length of a key.
const NO_TIME: i64 = i64::MIN;
const NO_KEY: u32 = u32::MAX;

impl<'a> Message<'a> {
    /// Writes the time and the length of the key (little endian), the key, the payload.
    pub(super) fn encode(self, into: &mut Vec<u8>) {
        into.clear();
        into.extend_from_slice(&self.timestamp.unwrap_or(NO_TIME).to_le_bytes());
        into.extend_from_slice(&self.key.map_or(NO_KEY, |key| key.len() as u32).to_le_bytes());
        into.extend_from_slice(self.key.unwrap_or_default());
        into.extend_from_slice(self.payload);
    }

    /// The message that these bytes are; `None` where they are none.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (time, rest) = bytes.split_first_chunk()?;
        let (key_len, rest) = rest.split_first_chunk()?;
        let (timestamp, key_len) = (i64::from_le_bytes(*time), u32::from_le_bytes(*key_len));
        let (key, payload) = match key_len {
            NO_KEY => (None, rest),
            len => rest.split_at_checked(len as usize).map(|(key, payload)| (Some(key), payload))?,
        };
        Some(Self { timestamp: (timestamp != NO_TIME).then_some(timestamp), key, payload })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = Vec::new();
        for timestamp in [None, Some(0), Some(-1), Some(1_767_225_600_000)] {
            for key in [None, Some(&b""[..]), Some(b"acme")] {
                for payload in [&b""[..], b"{}"] {
                    let message = Message { timestamp, key, payload };
                    message.encode(&mut bytes);
                    assert_eq!(Message::decode(&bytes), Some(message));
                }
            }
        }
        Message { timestamp: None, key: Some(b"acme"), payload: b"" }.encode(&mut bytes);
        (0..bytes.len()).for_each(|len| assert_eq!(Message::decode(&bytes[..len]), None));
    }
}
