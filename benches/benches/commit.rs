//! What a commit costs on this machine: rows of Bronze and Silver by compression, small commits in a row, lookups.
//!
//! `cargo bench -p subscription-benches --bench commit -- [ROWS] [COMMITS]`

use std::sync::Arc;

use subscription_core::{
    Admitted, Clock as _, Commit, Counts, EventBatch, EventRow, HttpMethod, IdLookup, RecordBatch, Result, SystemClock,
    Table, TableCommit, TableSpan, TableStore as _, Timestamp,
};
use subscription_delta::{Compression, DeltaConfig, DeltaStore};
use uuid::Uuid;

const START: i64 = 1_709_200_000_000;

#[tokio::main]
async fn main() -> Result<()> {
    // `cargo bench` adds words of its own.
    let mut numbers = std::env::args().filter_map(|arg| arg.parse().ok());
    let rows: u64 = numbers.next().unwrap_or(200_000);
    let commits: u64 = numbers.next().unwrap_or(2_000);
    let dir = tempfile::tempdir().expect("a folder for the lake");
    let open = |name: &str, compression| {
        let path = dir.path().join(name);
        DeltaConfig::new(path.to_str().unwrap_or_default()).map(|config| config.compression(compression))
    };
    let clock = SystemClock::new();
    let millis = |since: u64| (clock.monotonic_nanos() - since) as f64 / 1e6;

    let batch = admitted(0, rows);
    for compression in
        [Compression::None, Compression::Balanced, Compression::Snappy, Compression::Lz4, Compression::Zstd]
    {
        let lake = DeltaStore::open(open(&format!("{compression:?}"), compression)?).await?;
        for table in [Table::Bronze, Table::Silver] {
            let (began, used) = (clock.monotonic_nanos(), cpu_millis());
            let done = lake.commit(commit(&[table], 0, rows, &batch)).await?;
            println!(
                "{compression:?} {}: {rows} rows, {:.3} µs a row, {:.3} µs of CPU, {} bytes a row",
                table.name(),
                millis(began) * 1e3 / rows as f64,
                (cpu_millis() - used) * 1e3 / rows as f64,
                done.bytes / rows,
            );
        }
    }

    let lake = DeltaStore::open(open("small", Compression::Snappy)?).await?;
    let mut costs = Vec::new();
    for at in 0..commits {
        let batch = admitted(at * 100, at * 100 + 100);
        let (began, used) = (clock.monotonic_nanos(), cpu_millis());
        lake.commit(commit(&[Table::DeadLetter, Table::Bronze], at * 100, at * 100 + 100, &batch)).await?;
        lake.commit(commit(&[Table::Quarantine, Table::Silver], at * 100, at * 100 + 100, &batch)).await?;
        costs.push((millis(began), cpu_millis() - used));
    }
    let mean = |costs: &[(f64, f64)]| {
        let sum = costs.iter().fold((0.0, 0.0), |sum, cost| (sum.0 + cost.0, sum.1 + cost.1));
        format!("{:.2} ms ({:.2} ms of CPU)", sum.0 / costs.len() as f64, sum.1 / costs.len() as f64)
    };
    let hundred = costs.len().min(100);
    println!("two stages of 100 rows, four tables: the first {hundred} of {commits} {}", mean(&costs[..hundred]));
    println!("the last {hundred} {}", mean(&costs[costs.len() - hundred..]));

    let began = clock.monotonic_nanos();
    let lake = DeltaStore::open(open("small", Compression::Snappy)?).await?;
    println!("opening the lake after them: {:.1} ms", millis(began));
    let began = clock.monotonic_nanos();
    let ids = lake.read_ids("usage", &[(0, Timestamp::MIN)]).await?.concat();
    println!("{} ids of {commits} files: {:.1} ms", ids.len(), millis(began));
    let lake = DeltaStore::open(open("Snappy", Compression::Snappy)?).await?;
    for known in [true, false] {
        let question = |offset: u64| IdLookup {
            partition: 0,
            tenant_id: tenant(offset).into(),
            event_id: id(if known { offset } else { offset + rows }),
            from: time(offset),
            to: time(offset),
        };
        let questions: Vec<_> = (0..10_000).map(|n| question(n * 7 % rows)).collect();
        for pass in ["cold", "warm"] {
            let began = clock.monotonic_nanos();
            let answers = lake.lookup("usage", &questions).await?;
            let hits = answers.iter().filter(|times| !times.is_empty()).count();
            println!("10000 questions, {hits} known, {pass}: {:.1} ms", millis(began));
        }
    }
    let (began, mut at, mut read) = (clock.monotonic_nanos(), 0, 0);
    while let Some(batch) = lake.read_bronze("usage", 0, at, 4 << 20).await? {
        (at, read) = (batch.to(), read + batch.len());
    }
    println!("Bronze read back, 4 MiB at a time: {:.3} µs a row", millis(began) * 1e3 / read as f64);
    let (began, mut at, mut read) = (clock.monotonic_nanos(), 0, 0);
    loop {
        let batch = lake.read_silver("usage", 0, at, u64::MAX, 10_000).await?;
        let Some(last) = batch.rows().last() else { break };
        (at, read) = (last.offset + 1, read + batch.rows().len());
    }
    println!("Silver read back, 10000 rows at a time: {:.3} µs a row", millis(began) * 1e3 / read as f64);
    Ok(())
}

/// CPU time of this process, in milliseconds, to the tick of the clock; 0 where the system does not tell.
fn cpu_millis() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() * 10.0
}

fn id(offset: u64) -> Uuid {
    // Spread as real ids are.
    let spread = (u128::from(offset) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_0C25_53A4_1C29);
    Uuid::from_u128(spread ^ (spread >> 61))
}

fn time(offset: u64) -> Timestamp {
    Timestamp::from_millis(START + offset as i64 / 5 - (offset as i64 * 7_919) % 3_000)
}

fn tenant(offset: u64) -> String {
    format!("tenant-{:05}", offset * 7_919 % 10_000)
}

/// Offsets `from..to`, each an accepted event of about 600 bytes with twenty fields.
fn admitted(from: u64, to: u64) -> Arc<Admitted> {
    let mut records = RecordBatch::builder("usage".into(), 0, from);
    let mut events = EventBatch::builder();
    for offset in from..to {
        let (tenant, id, ingested) = (tenant(offset), id(offset), Timestamp::from_millis(START + offset as i64 / 5));
        let trace = format!("{:032x}", id.as_u128().rotate_left(17));
        let (agent, ip) = ("Mozilla/5.0 (X11; Linux x86_64) acme-sdk/2.4.1", format!("10.{}.0.7", offset % 256));
        let endpoint = format!("/v1/accounts/{}/charges", offset * 31 % 50);
        let milliseconds = (offset * 7_907 % 100_000) as f64 / 100.0;
        let payload = format!(
            r#"{{"event_id":"{id}","schema_version":"1.0","event_timestamp":"{}","tenant_id":"{tenant}","api_key_id":"key-{tenant}-1","user_id":"user-{}","endpoint":"{endpoint}","http_method":"GET","api_version":"v1","response_status_code":200,"response_time_ms":{milliseconds},"subscription_plan":"pro","risk_score":0.0625,"ip_address":"{ip}","country_code":"DE","region":"eu-central-1","user_agent":"{agent}","sdk_version":"2.4.1","request_size_bytes":512,"response_size_bytes":{},"trace_id":"{trace}","emitter_id":"gateway-7","emitter_sequence":{offset}}}"#,
            time(offset),
            offset * 13 % 100_000,
            offset * 17 % 9_000,
        );
        records.push(offset, ingested, Some(tenant.as_bytes()), Some(payload.as_bytes()));
        let row = EventRow {
            offset,
            ingestion_timestamp: ingested,
            event_timestamp: time(offset),
            is_late: false,
            event_id: id,
            schema_version: Some(events.text("1.0")),
            tenant_id: events.text(&tenant),
            api_key_id: events.text(&format!("key-{tenant}-1")),
            user_id: Some(events.text(&format!("user-{}", offset * 13 % 100_000))),
            endpoint: events.text(&endpoint),
            http_method: HttpMethod::Get,
            api_version: Some(events.text("v1")),
            response_status_code: 200,
            response_time_ms: milliseconds,
            subscription_plan: events.text("pro"),
            risk_score: Some(0.0625),
            velocity_last_1min: None,
            velocity_last_5min: None,
            velocity_last_1hour: None,
            ip_address: Some(events.text(&ip)),
            country_code: Some(events.text("DE")),
            region: Some(events.text("eu-central-1")),
            user_agent: Some(events.text(agent)),
            sdk_version: Some(events.text("2.4.1")),
            request_size_bytes: Some(512),
            response_size_bytes: Some((offset * 17 % 9_000) as i64),
            request_id: None,
            trace_id: Some(events.text(&trace)),
            emitter_id: Some(events.text("gateway-7")),
            emitter_sequence: Some(offset as i64),
            billable_units: None,
            quota_cost: None,
            labels: None,
        };
        events.push(row);
    }
    Arc::new(Admitted {
        records: records.finish(to),
        dead: Vec::new(),
        quarantined: Vec::new(),
        accepted: events.finish(),
        counts: Counts::default(),
        watermark: Some(Timestamp::from_millis(START - 3_600_000)),
    })
}

fn commit(tables: &[Table], from: u64, to: u64, batch: &Arc<Admitted>) -> Arc<Commit> {
    let span = TableSpan { partition: 0, from, to, counters: Vec::new() };
    let tables = tables.iter().map(|&table| TableCommit { table, spans: vec![span.clone()] }).collect();
    Arc::new(Commit { topic: "usage".into(), tables, admitted: vec![batch.clone()], ranges: Vec::new() })
}
