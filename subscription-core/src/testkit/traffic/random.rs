//! Randomness that is the same on every machine and in every version: integers and the exact operations of IEEE 754.

/// SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
///
/// Own code since the streams of the `rand` crate may change with its versions, and here the bytes must not.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`, which is not 0.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// From `low` to `high`, both inclusive.
    pub(super) fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1) as u64) as i64
    }

    /// In [0, 1).
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True for that share of calls.
    pub(super) fn chance(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    pub(super) fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// A number that is always the same for `value`.
pub(super) fn hash(value: u64) -> u64 {
    Random::new(value).next()
}

/// 2^(i/16): the steps of what is distributed over orders of magnitude. Made by multiplications alone, since `exp2` differs by
/// libm.
pub(super) fn powers() -> [f64; 145] {
    const STEP: f64 = 1.044_273_782_427_413_8;
    let mut powers = [1.0; 145];
    for i in 1..powers.len() {
        powers[i] = if i % 16 == 0 { powers[i - 16] * 2.0 } else { powers[i - 1] * STEP };
    }
    powers
}

/// Picks `k` of `0..n` with a weight of `(k + 1)^-s` in constant time: the alias method (Walker 1977, as built by Vose 1991).
#[derive(Debug, Clone)]
pub(super) struct Zipf {
    /// For each slot: keep it where the low half of the draw is below this, else take the other one.
    slots: Vec<(u32, u32)>,
}

impl Zipf {
    /// The exponent is taken in steps of a quarter, whose powers need square roots only.
    pub(super) fn new(n: u32, exponent: f64) -> Self {
        let quarters = (exponent * 4.0).round_ties_even().max(0.0) as u32;
        let n = n.max(1) as usize;
        let weights: Vec<f64> = (1..=n)
            .map(|k| {
                let root = (k as f64).sqrt().sqrt();
                (0..quarters).fold(1.0, |weight, _| weight / root)
            })
            .collect();
        let mean = weights.iter().sum::<f64>() / n as f64;
        let mut share: Vec<f64> = weights.iter().map(|weight| weight / mean).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..n).partition(|k| share[*k] < 1.0);
        let mut slots: Vec<(u32, u32)> = (0..n as u32).map(|k| (u32::MAX, k)).collect();
        while let (Some(below), Some(above)) = (small.pop(), large.pop()) {
            slots[below] = ((share[below] * f64::from(u32::MAX)) as u32, above as u32);
            share[above] -= 1.0 - share[below];
            if share[above] < 1.0 { small.push(above) } else { large.push(above) }
        }
        Self { slots }
    }

    pub(super) fn pick(&self, random: &mut Random) -> u32 {
        let draw = random.next();
        let slot = ((draw >> 32) * self.slots.len() as u64) >> 32;
        let (keep, other) = self.slots[slot as usize];
        if (draw as u32) < keep { slot as u32 } else { other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix_is_the_published_one() {
        // The first outputs for seed 1234567, as the reference code of Sebastiano Vigna gives them.
        let mut random = Random::new(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn zipf_has_its_shares() {
        let zipf = Zipf::new(4, 1.0);
        let mut random = Random::new(1);
        let mut counts = [0u32; 4];
        for _ in 0..25_000 {
            counts[zipf.pick(&mut random) as usize] += 1;
        }
        // 1 : 1/2 : 1/3 : 1/4 of 25,000 are 12,000, 6,000, 4,000 and 3,000.
        for (count, expected) in counts.into_iter().zip([12_000, 6_000, 4_000, 3_000]) {
            assert!(count.abs_diff(expected) < 400, "{counts:?}");
        }
    }
}
