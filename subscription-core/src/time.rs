//! Points in time and the windows they fall in.

use std::fmt;

use chrono::{DateTime, Datelike, NaiveDate, SecondsFormat, Utc};

/// Milliseconds since 1970-01-01T00:00:00Z. Finer digits of an input are cut, not rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

/// Milliseconds in a second, a minute, an hour, a day.
pub(crate) const SECOND: i64 = 1_000;
pub(crate) const MINUTE: i64 = 60 * SECOND;
pub(crate) const HOUR: i64 = 60 * MINUTE;
pub(crate) const DAY: i64 = 24 * HOUR;

impl Timestamp {
    /// The epoch.
    pub const EPOCH: Self = Self(0);
    /// Before every event.
    pub const MIN: Self = Self(i64::MIN);
    /// After every event.
    pub const MAX: Self = Self(i64::MAX);

    /// From milliseconds since the epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Microseconds since the epoch, as the tables store them; saturates.
    pub const fn micros(self) -> i64 {
        self.0.saturating_mul(1_000)
    }

    /// This time and `millis` more; saturates.
    pub const fn plus_millis(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Days since the epoch, the UTC date as Arrow and Parquet store it.
    pub const fn days(self) -> i32 {
        self.0.div_euclid(DAY) as i32
    }

    /// The UTC date as `YYYY-MM-DD`.
    pub fn date(self) -> String {
        self.datetime().format("%Y-%m-%d").to_string()
    }

    /// The UTC calendar month as `YYYY-MM`.
    pub fn month(self) -> String {
        self.datetime().format("%Y-%m").to_string()
    }

    /// RFC 3339 in whole seconds with `Z`, as alert ids use it.
    pub fn to_rfc3339_seconds(self) -> String {
        self.datetime().to_rfc3339_opts(SecondsFormat::Secs, true)
    }

    fn datetime(self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.0).unwrap_or(if self.0 < 0 {
            DateTime::<Utc>::MIN_UTC
        } else {
            DateTime::<Utc>::MAX_UTC
        })
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 with milliseconds and `Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.datetime().to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(value: DateTime<Utc>) -> Self {
        Self(value.timestamp_millis())
    }
}

impl From<Timestamp> for DateTime<Utc> {
    /// Clamped to the years that chrono can hold.
    fn from(value: Timestamp) -> Self {
        value.datetime()
    }
}

/// The tumbling windows in which usage is measured: half-open, aligned to the epoch in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WindowKind {
    /// A clock minute.
    Minute,
    /// A clock hour.
    Hour,
    /// A calendar month in UTC.
    Month,
}

impl WindowKind {
    /// All kinds, shortest first.
    pub const ALL: [Self; 3] = [Self::Minute, Self::Hour, Self::Month];

    /// The start of the window that holds `time`.
    ///
    /// ```
    /// use subscription_core::{Timestamp, WindowKind};
    /// let time = Timestamp::from_millis(1_700_000_123_456);
    /// assert_eq!(WindowKind::Minute.start(time).to_string(), "2023-11-14T22:15:00.000Z");
    /// assert_eq!(WindowKind::Month.start(time).to_string(), "2023-11-01T00:00:00.000Z");
    /// ```
    pub fn start(self, time: Timestamp) -> Timestamp {
        match self {
            Self::Minute => Timestamp(time.0.div_euclid(MINUTE).saturating_mul(MINUTE)),
            Self::Hour => Timestamp(time.0.div_euclid(HOUR).saturating_mul(HOUR)),
            Self::Month => {
                let date = time.datetime().date_naive();
                first_of(date.year(), date.month())
            }
        }
    }

    /// The end, exclusive, of the window that begins at `start`.
    pub fn end(self, start: Timestamp) -> Timestamp {
        match self {
            Self::Minute => start.plus_millis(MINUTE),
            Self::Hour => start.plus_millis(HOUR),
            Self::Month => {
                let date = start.datetime().date_naive();
                if date.month() == 12 { first_of(date.year() + 1, 1) } else { first_of(date.year(), date.month() + 1) }
            }
        }
    }

    /// `1min`, `1hour` or `1month`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "1min",
            Self::Hour => "1hour",
            Self::Month => "1month",
        }
    }
}

impl fmt::Display for WindowKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn first_of(year: i32, month: u32) -> Timestamp {
    NaiveDate::from_ymd_opt(year, month, 1).map_or(Timestamp::MAX, |date| {
        Timestamp(i64::from(date.signed_duration_since(NaiveDate::default()).num_days() as i32) * DAY)
    })
}
