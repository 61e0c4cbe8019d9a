//! Percentiles of times.

/// Times, in nanoseconds.
#[derive(Debug, Clone, Default)]
pub struct Times(Vec<u64>);

impl Times {
    /// Adds one.
    pub fn add(&mut self, nanos: u64) {
        self.0.push(nanos);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The time in milliseconds that a share, of 1, of them does not exceed; not a number where there is none.
    pub fn at(&mut self, share: f64) -> f64 {
        self.0.sort_unstable();
        let place = (self.0.len() as f64 * share).ceil().max(1.0) as usize - 1;
        self.0.get(place).map_or(f64::NAN, |nanos| *nanos as f64 / 1e6)
    }
}

impl Extend<u64> for Times {
    fn extend<T: IntoIterator<Item = u64>>(&mut self, times: T) {
        self.0.extend(times);
    }
}

impl IntoIterator for Times {
    type Item = u64;
    type IntoIter = std::vec::IntoIter<u64>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
