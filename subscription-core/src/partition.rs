//! Which partition a key belongs to.

/// How a producer chooses the partition of a record with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Partitioner {
    /// murmur2, the default of the Java client; librdkafka's `murmur2` and `murmur2_random`.
    Murmur2,
    /// CRC-32, the default of librdkafka and of clients built on it (`consistent`, `consistent_random`).
    Crc32,
    /// FNV-1a, the default of Go's sarama; librdkafka's `fnv1a` and `fnv1a_random`.
    Fnv1a,
}

impl Partitioner {
    /// Every one, the most common first.
    pub const ALL: [Self; 3] = [Self::Murmur2, Self::Crc32, Self::Fnv1a];

    /// Its name in settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Murmur2 => "murmur2",
            Self::Crc32 => "crc32",
            Self::Fnv1a => "fnv1a",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|partitioner| partitioner.name() == name)
    }

    /// The partition of a key.
    ///
    /// # Panics
    /// If `partitions` is 0.
    pub fn partition(self, key: &[u8], partitions: u32) -> u32 {
        match self {
            Self::Murmur2 => murmur2_partition(key, partitions),
            Self::Crc32 => crc32(key) % partitions,
            // sarama takes the remainder of the hash as a signed number and then drops the sign.
            Self::Fnv1a => (fnv1a(key) as i32).unsigned_abs() % partitions,
        }
    }
}

/// A topic whose records are in the partition that their tenant's id belongs to.
///
/// ```
/// use subscription_core::{Partitioner, Routing};
/// let routing = Routing { partitioner: Partitioner::Murmur2, partitions: 1_000 };
/// assert_eq!(routing, Routing::murmur2(1_000));
/// assert_eq!(routing.partition("foobar"), 166);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Routing {
    /// What its producers choose the partition by.
    pub partitioner: Partitioner,
    /// How many partitions it has.
    pub partitions: u32,
}

impl Routing {
    /// A topic of so many partitions whose producers use Kafka's default partitioner.
    pub const fn murmur2(partitions: u32) -> Self {
        Self { partitioner: Partitioner::Murmur2, partitions }
    }

    /// The partition of a tenant.
    ///
    /// # Panics
    /// If there are no partitions.
    pub fn partition(self, tenant_id: &str) -> u32 {
        self.partitioner.partition(tenant_id.as_bytes(), self.partitions)
    }
}

/// Kafka's default partitioner: murmur2 of the key, its sign bit dropped, modulo the number of partitions.
///
/// The hash is Austin Appleby's MurmurHash2 with the seed of `org.apache.kafka.common.utils.Utils.murmur2`.
///
/// ```
/// use subscription_core::murmur2_partition;
/// assert_eq!(murmur2_partition(b"foobar", 1_000), 166); // Utils.murmur2("foobar") = -790332482
/// ```
///
/// # Panics
/// If `partitions` is 0.
pub fn murmur2_partition(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions
}

fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut h = 0x9747_b28c_u32 ^ data.len() as u32;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (i, byte) in rest.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

/// CRC-32 as in IEEE 802.3 and zlib.
fn crc32(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let mut crc = i as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    !data.iter().fold(!0, |crc: u32, byte| TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ (crc >> 8))
}

/// FNV-1a of 32 bits (Fowler, Noll, Vo).
fn fnv1a(data: &[u8]) -> u32 {
    data.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check values of the CRC catalogue and of the FNV page.
    #[test]
    fn agrees_with_other_clients() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!((fnv1a(b""), fnv1a(b"a"), fnv1a(b"foobar")), (0x811c_9dc5, 0xe40c_292c, 0xbf9c_f968));
        // As signed numbers these hashes are negative: sarama drops the sign of the remainder.
        assert_eq!(Partitioner::Fnv1a.partition(b"foobar", 1_000), (0xbf9c_f968_u32 as i32 % 1_000).unsigned_abs());
        for partitioner in Partitioner::ALL {
            assert_eq!(Partitioner::from_name(partitioner.name()), Some(partitioner));
        }
    }

    /// The cases of Apache Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn agrees_with_kafka() {
        for (key, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }
}
