#![doc = include_str!("../README.md")]

mod begin;
mod commit;
mod config;
mod counters;
mod end;
mod events;
mod letters;
mod partition;
mod pipeline;
mod retry;
mod run;
mod settings;
mod worker;

pub use config::{OnGap, PipelineConfig, RetryPolicy};
pub use events::{EventStream, PipelineEvent, Progress};
pub use pipeline::{Pipeline, PipelineBuilder, RunReport, runtime};
