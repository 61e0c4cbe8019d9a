//! The real binary as a child, and what a process has used.

use std::path::PathBuf;
use std::process::Command;

/// What a process has used so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Seconds of processors, in the program and for it in the kernel, to a hundredth.
    pub cpu: f64,
    /// Memory at its most, in MiB.
    pub peak_mib: f64,
    /// Memory now, in MiB.
    pub resident_mib: f64,
}

/// What the process with this id has used; `None` once it is gone.
pub fn usage(id: u32) -> Option<Usage> {
    let proc = PathBuf::from(format!("/proc/{id}"));
    let stat = std::fs::read_to_string(proc.join("stat")).ok()?;
    let ticks = stat.rsplit(')').next()?.split_whitespace().skip(11).take(2);
    let cpu = ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0;
    let status = std::fs::read_to_string(proc.join("status")).ok()?;
    let mib = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(value.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1024.0)
    };
    Some(Usage { cpu, peak_mib: mib("VmHWM:")?, resident_mib: mib("VmRSS:")? })
}

/// The release binary `pipeline` beside this benchmark, or the one that `PIPELINE_BIN` names.
///
/// # Panics
/// If there is none.
pub fn pipeline() -> Command {
    binary("pipeline", "PIPELINE_BIN")
}

/// The release binary `gateway` beside this benchmark, or the one that `GATEWAY_BIN` names.
///
/// # Panics
/// If there is none.
pub fn gateway() -> Command {
    binary("gateway", "GATEWAY_BIN")
}

fn binary(name: &str, variable: &str) -> Command {
    let path = std::env::var_os(variable).map_or_else(
        || {
            let here = std::env::current_exe().expect("a path");
            here.ancestors().nth(2).expect("target/release/deps").join(name)
        },
        PathBuf::from,
    );
    assert!(path.exists(), "no {}: build it with `cargo build --release --bins`", path.display());
    Command::new(path)
}

/// Touches memory, and gives it back at once, so that the next process finds it with this machine.
///
/// A virtual machine may have given what is free back to its host, and whoever touches it next waits for each page: 9.5 µs of
/// 4 KiB were measured, against 2.2 a moment later. In a run of some seconds that was a sixth of the processor time, or nothing,
/// as chance had it. A server that runs for long has its memory.
pub fn touch_memory() {
    const BYTES: usize = 3 << 30;
    const PAGE: usize = 4 << 10;
    let mut memory = vec![0u8; BYTES];
    memory.iter_mut().step_by(PAGE).for_each(|byte| *byte = 1);
    std::hint::black_box(&memory);
}

/// Prints the machine and the revision.
pub fn heading() {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1)).unwrap_or("unknown");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let revision = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let revision = revision.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned()).unwrap_or_default();
    println!("{cores} cores of {model}; revision {revision}\n");
}
