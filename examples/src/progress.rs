//! How far a run is, while it runs: a bar on a terminal, else a line every few seconds.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use subscription_pipeline::{EventStream, PipelineEvent, Progress};

use crate::text::{bytes, count, duration, percent};

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows a run's progress on standard error until its events end.
pub async fn show(mut events: EventStream, quiet: bool) {
    let bar = (!quiet && std::io::stderr().is_terminal()).then(bar);
    let mut meter = Meter::default();
    let mut shown = Duration::ZERO;
    let (mut last, mut astray, mut astray_told) = (Duration::ZERO, 0, None);
    while let Some(event) = events.next().await {
        match event {
            PipelineEvent::Progress(progress) => {
                last = progress.elapsed;
                let line = meter.line(&progress);
                if let Some(bar) = &bar {
                    bar.set_length(progress.source.total.unwrap_or(progress.source.done).max(1));
                    bar.set_position(progress.source.done);
                    bar.set_message(line);
                } else if !quiet && progress.elapsed.saturating_sub(shown) >= LINE_EVERY {
                    shown = progress.elapsed;
                    say(&format!("{line}  {}", held(&progress)));
                }
            }
            PipelineEvent::Retrying { what, error, pause, .. } => {
                tell(&bar, format!("cannot {what}: {error}; trying again in {}", duration(pause)));
            }
            PipelineEvent::WaitingForOthers { partitions } => {
                let partitions: Vec<String> = partitions.iter().map(u32::to_string).collect();
                tell(&bar, format!("at the end; others of the group still have partitions {}", partitions.join(", ")));
            }
            PipelineEvent::Fenced { error } => {
                tell(&bar, format!("another process took over: {error}; joining anew, nothing is lost"));
            }
            PipelineEvent::Skipped { partition, from, to } => {
                tell(
                    &bar,
                    format!("warning: skipped {} offsets of partition {partition}: {from} to {to} are gone", to - from),
                );
            }
            PipelineEvent::Misrouted { partition, records, tenant_id, belongs_to, partitioner } => {
                astray += records;
                if astray_told.is_none_or(|at| last.saturating_sub(at) >= WARN_EVERY) {
                    let by = partitioner.name();
                    tell(
                        &bar,
                        format!(
                            "warning: {astray} records are quarantined as misrouted, such as of tenant `{tenant_id}` in \
                             partition {partition}: by {by} it belongs to {belongs_to}. A producer uses another partitioner, \
                             or another key than tenant_id"
                        ),
                    );
                    (astray, astray_told) = (0, Some(last));
                }
            }
            PipelineEvent::Assigned { partitions } if !quiet && bar.is_none() => {
                say(&format!("partitions assigned: {partitions:?}"));
            }
            PipelineEvent::Released { partitions } if !quiet && bar.is_none() => {
                say(&format!("partitions released: {partitions:?}"));
            }
            _ => {}
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
}

/// `ids 210 MiB, windows 256 MiB`: what the process keeps in memory, besides what is on its way.
fn held(progress: &Progress) -> String {
    format!("ids {}, windows {}", bytes(progress.dedup_bytes as u64), bytes(progress.gold_bytes as u64))
}

/// How often records of the wrong partition are told of.
const WARN_EVERY: Duration = Duration::from_secs(10);

fn tell(bar: &Option<ProgressBar>, line: String) {
    match bar {
        Some(bar) => bar.println(line),
        None => say(&line),
    }
}

/// A line on standard error; that nobody reads it is no error.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:24.cyan} {msg}").expect("the template is one");
    ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr_with_hz(10))
        .with_style(style.progress_chars("█▉▊▋▌▍▎▏·"))
}

/// Tells the rate of the last seconds from reports.
#[derive(Debug, Default)]
struct Meter {
    /// Reports of about the last five seconds: when, and the records read until then.
    recent: std::collections::VecDeque<(Duration, u64)>,
}

impl Meter {
    /// ` 42.0 %  1,234,567 records  312,000/s  lag 12,000 (38 ms)  3.2 s left`
    fn line(&mut self, progress: &Progress) -> String {
        const WINDOW: Duration = Duration::from_secs(5);
        let now = (progress.elapsed, progress.read);
        while self.recent.len() > 1 && self.recent.front().is_some_and(|(at, _)| progress.elapsed - *at > WINDOW) {
            self.recent.pop_front();
        }
        let (since, before) = self.recent.front().copied().unwrap_or_default();
        self.recent.push_back(now);
        let seconds = progress.elapsed.saturating_sub(since).as_secs_f64();
        let rate = if seconds > 0.0 { (progress.read - before) as f64 / seconds } else { 0.0 };
        let lag = progress.read.saturating_sub(progress.durable);
        let mut line = String::new();
        let source = progress.source;
        if let Some(total) = source.total.filter(|total| *total > 0) {
            line.push_str(&format!("{:>7}  ", percent(source.done as f64 / total as f64)));
        }
        line.push_str(&format!(
            "{} records  {}/s  lag {}",
            count(progress.read),
            count(rate.round() as i128),
            count(lag)
        ));
        if rate > 0.0 {
            line.push_str(&format!(" ({})", duration(Duration::from_secs_f64(lag as f64 / rate))));
        }
        if let Some(left) = remaining(progress) {
            line.push_str(&format!("  {} left", duration(left)));
        }
        line
    }
}

/// How long the rest takes at the pace so far; `None` where the end is not known or it is too early to tell.
fn remaining(progress: &Progress) -> Option<Duration> {
    let (done, total) = (progress.source.done, progress.source.total?);
    if done == 0 || done >= total || progress.elapsed.is_zero() {
        return None;
    }
    let left = progress.elapsed.as_secs_f64() * (total - done) as f64 / done as f64;
    Duration::try_from_secs_f64(left).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(seconds: u64, read: u64, durable: u64, done: u64, total: Option<u64>) -> Progress {
        let mut progress = Progress::default();
        progress.elapsed = Duration::from_secs(seconds);
        (progress.read, progress.durable) = (read, durable);
        (progress.source.done, progress.source.total) = (done, total);
        progress
    }

    #[test]
    fn the_line_has_rate_lag_and_time_left() {
        let mut meter = Meter::default();
        assert_eq!(meter.line(&progress(0, 0, 0, 0, Some(1_000))), "  0.0 %  0 records  0/s  lag 0");
        assert_eq!(
            meter.line(&progress(2, 400_000, 300_000, 250, Some(1_000))),
            " 25.0 %  400,000 records  200,000/s  lag 100,000 (500 ms)  6.0 s left"
        );
        // Of the last seconds, not of the whole run.
        meter.line(&progress(20, 400_000, 400_000, 250, Some(1_000)));
        assert_eq!(
            meter.line(&progress(21, 500_000, 500_000, 500, Some(1_000))),
            " 50.0 %  500,000 records  100,000/s  lag 0 (0 ms)  21.0 s left"
        );
    }

    #[test]
    fn a_pipe_has_no_end() {
        let line = Meter::default().line(&progress(1, 10, 10, 5_000, None));
        assert_eq!(line, "10 records  10/s  lag 0 (0 ms)");
    }
}
