//! `pipeline generate`: made-up traffic on standard output.

use std::io::{self, BufWriter, Write};
use std::time::Duration;

use clap::Args;
use subscription_core::testkit::traffic::{Broken, Traffic, TrafficConfig};
use subscription_core::{Clock, Error, ErrorKind, Result, SystemClock, testkit::traffic::TrafficRecord};

/// What traffic is made.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct Generate {
    /// How many records
    #[arg(long, value_name = "N")]
    pub events: u64,

    /// How many tenants [default: that of the profile]
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u32).range(1..))]
    pub tenants: Option<u32>,

    /// The same seed makes the same records
    #[arg(long, value_name = "S", default_value_t = 42)]
    pub seed: u64,

    /// Records a second of their own time [default: that of the profile]
    #[arg(long, value_name = "R", value_parser = positive)]
    pub rate: Option<f64>,

    /// Write --rate records a second, as a service would, rather than all at once
    #[arg(long)]
    pub paced: bool,

    /// What the traffic is like
    #[arg(long, value_enum, default_value_t = Profile::Steady)]
    pub profile: Profile,
}

/// What traffic is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// 10,000 tenants, 500 records a second, without trouble
    Steady,
    /// 20 tenants at the end of a month, with every kind of trouble
    Trouble,
    /// One in five late, the oldest by 35 days
    Late,
    /// Every event is sent twice
    Twice,
    /// 500,000 tenants
    ManyTenants,
    /// One tenant has half the traffic
    HotTenant,
}

impl Generate {
    /// What the generator is told.
    pub fn config(&self) -> TrafficConfig {
        let config = match self.profile {
            Profile::Steady => TrafficConfig::steady(self.seed),
            Profile::Trouble => TrafficConfig::trouble(self.seed),
            Profile::Late => TrafficConfig::late_heavy(self.seed),
            Profile::Twice => TrafficConfig::twice(self.seed),
            Profile::ManyTenants => TrafficConfig::many_tenants(self.seed),
            Profile::HotTenant => TrafficConfig::hot_tenant(self.seed),
        };
        // A line that is too large is 16 MiB of a file: about three of them, however long the file.
        let few = 3.0 / self.events.max(3) as f64;
        let broken = config.broken.iter().map(|&(kind, share)| match kind {
            Broken::TooLarge => (kind, share.min(few)),
            _ => (kind, share),
        });
        TrafficConfig {
            broken: broken.collect(),
            events: self.events,
            tenants: self.tenants.unwrap_or(config.tenants),
            rate: self.rate.unwrap_or(config.rate),
            ..config
        }
    }

    /// Writes the records, one JSON object a line. That nobody reads on is no error.
    ///
    /// # Errors
    /// Where writing fails.
    pub fn write(&self, out: impl Write) -> Result<()> {
        let mut out = BufWriter::with_capacity(1 << 18, out);
        let written =
            if self.paced { self.write_paced(&mut out) } else { Traffic::new(self.config()).write_ndjson(&mut out) };
        match written.and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Error::new(ErrorKind::Other, "cannot write the records").with_source(error))
            }
            _ => {
                // What is left in the buffer has no reader.
                let _ = out.into_parts();
                Ok(())
            }
        }
    }

    fn write_paced(&self, out: &mut impl Write) -> io::Result<()> {
        let config = self.config();
        let (clock, rate) = (SystemClock::new(), config.rate);
        let mut traffic = Traffic::new(config);
        let mut record = TrafficRecord::default();
        let mut written: u64 = 0;
        loop {
            let due = (clock.monotonic_nanos() as f64 * 1e-9 * rate) as u64;
            while written <= due {
                if !traffic.next_into(&mut record) {
                    return Ok(());
                }
                record.payload.resize(record.payload_len as usize, b' ');
                record.payload.push(b'\n');
                out.write_all(&record.payload)?;
                written += 1;
            }
            out.flush()?;
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

pub(crate) fn positive(text: &str) -> std::result::Result<f64, String> {
    let number = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    number.ok_or_else(|| "expected a number above 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEW: Generate =
        Generate { events: 200, tenants: Some(3), seed: 7, rate: None, paced: false, profile: Profile::Trouble };

    fn written(generate: &Generate) -> Vec<u8> {
        let mut out = Vec::new();
        generate.write(&mut out).expect("memory");
        out
    }

    #[test]
    fn as_many_lines_as_asked_for_and_the_same_each_time() {
        let lines = written(&FEW);
        assert_eq!(lines.iter().filter(|b| **b == b'\n').count(), 200);
        assert_eq!(lines, written(&FEW));
        assert_ne!(lines, written(&Generate { seed: 8, ..FEW }));
        let fast = Generate { rate: Some(1e6), ..FEW };
        assert_eq!(written(&fast), written(&Generate { paced: true, ..fast.clone() }));
    }

    #[test]
    fn a_file_of_every_trouble_is_not_made_of_lines_that_are_too_large() {
        struct Length(u64);
        impl Write for Length {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += bytes.len() as u64;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut length = Length(0);
        Generate { events: 10_000, ..FEW }.write(&mut length).expect("a count");
        assert!((16 << 20..256 << 20).contains(&length.0), "{} bytes, some of them in a line of 16 MiB", length.0);
    }

    #[test]
    fn a_reader_that_leaves_is_no_error_and_a_full_disk_is() {
        struct Fails(io::ErrorKind);
        impl Write for Fails {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert!(FEW.write(Fails(io::ErrorKind::BrokenPipe)).is_ok());
        assert!(FEW.write(Fails(io::ErrorKind::StorageFull)).is_err());
    }
}
