//! The usage of one tenant in one window, kept as integers that do not depend on the order of its events.

use std::sync::Arc;

use crate::alert::Raised;
use crate::decimal::{Money, Units};
use crate::distinct::DistinctCount;
use crate::error::{Error, ErrorKind, Result};
use crate::gold::UsageRow;
use crate::intern::Plans;
use crate::ranges::{Group, Written};
use crate::sketch::LatencySketch;
use crate::time::{Timestamp, WindowKind};
use crate::varint::{self, Reader};

/// The version of the persisted state.
const VERSION: u8 = 1;

/// Fractions of a risk score that are added up.
const RISK_SCALE: f64 = 1e6;

/// Fractions of a millisecond that are added up: whole microseconds.
const MICROS: f64 = 1e3;

/// What one accepted event adds to its windows, worked out once for all of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) offset: u64,
    pub(crate) time: i64,
    pub(crate) late: bool,
    pub(crate) status: u16,
    pub(crate) quota_cost: i64,
    /// Its units, where it is billed.
    pub(crate) billed: Option<Units>,
    pub(crate) cost: Money,
    pub(crate) request_bytes: i64,
    pub(crate) response_bytes: i64,
    pub(crate) response_ms: f64,
    pub(crate) response_us: u64,
    pub(crate) response_bucket: u16,
    pub(crate) risk: Option<f64>,
    pub(crate) key_hash: u64,
    pub(crate) plan: u32,
}

/// Milliseconds in whole microseconds, ties to even.
pub(crate) fn whole_micros(ms: f64) -> u64 {
    (ms * MICROS).round_ties_even() as u64
}

/// A row of `tenant_usage_1min`, `tenant_usage_hourly` or `tenant_usage_monthly` with all that it needs to take a
/// further event.
///
/// What is added is never negative, so a sum that saturates is the least of the true sum and the bound, in whatever
/// order it is added up.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct UsageState {
    pub(crate) total: i64,
    throttled: i64,
    pub(crate) auth_failures: i64,
    pub(crate) client_errors: i64,
    server_errors: i64,
    pub(crate) attempted: i64,
    pub(crate) used: i64,
    billable_requests: i64,
    late: i64,
    request_bytes: i64,
    response_bytes: i64,
    units: Units,
    cost: Money,
    response_us_sum: i128,
    response_ms_max: f64,
    risks: u64,
    risk_sum: u64,
    risk_max: f64,
    plan: u32,
    /// Event time and offset of the event that `plan` is of.
    plan_of: (i64, u64),
    pub(crate) limit: i64,
    first_offset: u64,
    last_offset: u64,
    latency: LatencySketch,
    keys: DistinctCount,
    /// The alerts raised for the window, by type.
    pub(crate) raised: Vec<Raised>,
}

impl UsageState {
    /// A window without events, to which `sample` is about to be added.
    pub(crate) fn new(sample: &Sample) -> Self {
        Self {
            total: 0,
            throttled: 0,
            auth_failures: 0,
            client_errors: 0,
            server_errors: 0,
            attempted: 0,
            used: 0,
            billable_requests: 0,
            late: 0,
            request_bytes: 0,
            response_bytes: 0,
            units: Units::ZERO,
            cost: Money::ZERO,
            response_us_sum: 0,
            response_ms_max: 0.0,
            risks: 0,
            risk_sum: 0,
            risk_max: 0.0,
            plan: sample.plan,
            plan_of: (sample.time, sample.offset),
            limit: 0,
            first_offset: sample.offset,
            last_offset: sample.offset,
            latency: LatencySketch::default(),
            keys: DistinctCount::default(),
            raised: Vec::new(),
        }
    }

    /// Adds an event on whose plan the window's limit is `limit`.
    pub(crate) fn add(&mut self, sample: &Sample, limit: i64) {
        self.total += 1;
        self.attempted = self.attempted.saturating_add(sample.quota_cost);
        match sample.status {
            429 => self.throttled += 1,
            401 | 403 => self.auth_failures += 1,
            400..500 => self.client_errors += 1,
            500.. => self.server_errors += 1,
            _ => {}
        }
        if sample.status != 429 {
            self.used = self.used.saturating_add(sample.quota_cost);
        }
        if let Some(units) = sample.billed {
            self.billable_requests += 1;
            self.units = self.units.plus(units);
            self.cost = self.cost.plus(sample.cost);
        }
        self.late += i64::from(sample.late);
        self.request_bytes = self.request_bytes.saturating_add(sample.request_bytes);
        self.response_bytes = self.response_bytes.saturating_add(sample.response_bytes);
        self.response_us_sum += i128::from(sample.response_us);
        self.response_ms_max = self.response_ms_max.max(sample.response_ms);
        self.latency.add_bucket(sample.response_bucket, 1);
        if let Some(risk) = sample.risk {
            self.risks += 1;
            self.risk_sum = self.risk_sum.saturating_add((risk * RISK_SCALE).round_ties_even() as u64);
            self.risk_max = self.risk_max.max(risk);
        }
        self.keys.add_hash(sample.key_hash);
        if (sample.time, sample.offset) >= self.plan_of {
            self.plan = sample.plan;
            self.plan_of = (sample.time, sample.offset);
        }
        self.limit = self.limit.max(limit);
        self.first_offset = self.first_offset.min(sample.offset);
        self.last_offset = self.last_offset.max(sample.offset);
    }

    /// Total − throttled.
    pub(crate) fn admitted(&self) -> i64 {
        self.total - self.throttled
    }

    /// The plan of the event with the greatest (event time, offset).
    pub(crate) fn plan(&self) -> u32 {
        self.plan
    }

    /// `risk_score_mean`: exact integers, divided once.
    pub(crate) fn risk_mean(&self) -> Option<f64> {
        (self.risks > 0).then(|| self.risk_sum as f64 / (self.risks as f64 * RISK_SCALE))
    }

    /// What the limit is compared with: attempts in a minute, what was admitted in an hour or a month.
    pub(crate) fn usage(&self, kind: WindowKind) -> i64 {
        if kind == WindowKind::Minute { self.attempted } else { self.used }
    }

    /// max(0, used − limit).
    pub(crate) fn over_limit_count(&self, kind: WindowKind) -> i64 {
        self.usage(kind).saturating_sub(self.limit).max(0)
    }

    /// The row of the window that is written.
    pub(crate) fn to_row(
        &self,
        kind: WindowKind,
        tenant_id: Arc<str>,
        written: &Written<'_, Self>,
        plans: &Plans,
        currency: (&Arc<str>, u32),
    ) -> UsageRow {
        let usage = self.usage(kind);
        let month = kind == WindowKind::Month;
        let cost = Money::from_raw(decimal38(self.cost.raw()));
        // The middle of a bucket may lie above the greatest of its values.
        let [p50, p95, p99] =
            self.latency.percentiles([50, 95, 99]).map(|micros| (micros / MICROS).min(self.response_ms_max));
        UsageRow {
            tenant_id,
            window_start: written.start,
            window_end: written.end,
            is_final: written.is_final,
            total_requests: self.total,
            throttled_requests: self.throttled,
            auth_failures: self.auth_failures,
            client_errors: self.client_errors,
            server_errors: self.server_errors,
            admitted_requests: self.admitted(),
            quota_attempted: self.attempted,
            quota_used: self.used,
            billable_requests: self.billable_requests,
            billable_units: Units::from_raw(decimal38(self.units.raw())),
            late_requests: self.late,
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            response_time_us_sum: self.response_us_sum,
            response_time_ms_max: self.response_ms_max,
            response_time_ms_p50: p50,
            response_time_ms_p95: p95,
            response_time_ms_p99: p99,
            risk_score_mean: self.risk_mean(),
            risk_score_max: (self.risks > 0).then_some(self.risk_max),
            distinct_api_keys: i64::try_from(self.keys.count()).unwrap_or(i64::MAX),
            subscription_plan: plans.name(self.plan).clone(),
            plan_limit: self.limit,
            over_limit: usage > self.limit,
            over_limit_count: self.over_limit_count(kind),
            usage_ratio: if usage == 0 { 0.0 } else { usage as f64 / self.limit as f64 },
            first_offset: self.first_offset,
            last_offset: self.last_offset,
            cost: month.then_some(cost),
            amount_due: month.then(|| cost.round(currency.1)),
            currency: month.then(|| currency.0.clone()),
            state: written.packed.map_or_else(|| self.encode(written.start, plans), <[u8]>::to_vec),
        }
    }

    /// The persisted form: a version, then integers in base 128, times and offsets as distances.
    pub(crate) fn encode(&self, start: Timestamp, plans: &Plans) -> Vec<u8> {
        let plan = plans.name(self.plan);
        // About what comes: there are hundreds of thousands of these at once.
        let mut out = Vec::with_capacity(64 + plan.len() + self.latency.heap_bytes() / 4 + self.keys.heap_bytes());
        out.push(VERSION);
        for count in [
            self.total,
            self.throttled,
            self.auth_failures,
            self.client_errors,
            self.server_errors,
            self.attempted,
            self.used,
            self.billable_requests,
            self.late,
            self.request_bytes,
            self.response_bytes,
            self.limit,
        ] {
            varint::put(&mut out, count as u64);
        }
        varint::put_i128(&mut out, self.units.raw());
        varint::put_i128(&mut out, self.cost.raw());
        varint::put_i128(&mut out, self.response_us_sum);
        varint::put_scaled(&mut out, self.response_ms_max, MICROS);
        varint::put(&mut out, self.risks);
        if self.risks > 0 {
            varint::put(&mut out, self.risk_sum);
            varint::put_scaled(&mut out, self.risk_max, RISK_SCALE);
        }
        varint::put(&mut out, plan.len() as u64);
        out.extend_from_slice(plan.as_bytes());
        varint::put(&mut out, (self.plan_of.0 - start.millis()) as u64);
        varint::put(&mut out, self.first_offset);
        varint::put(&mut out, self.last_offset - self.first_offset);
        varint::put(&mut out, self.last_offset - self.plan_of.1);
        self.latency.encode(&mut out);
        self.keys.encode(&mut out);
        varint::put(&mut out, self.raised.len() as u64);
        self.raised.iter().for_each(|raised| raised.encode(&mut out));
        out
    }

    /// Reads back what a row keeps in `state`.
    ///
    /// # Errors
    /// `Corrupt` where the bytes are no state, `Mismatch` where a newer version wrote them.
    pub(crate) fn decode(state: &[u8], start: Timestamp, plans: &mut Plans) -> Result<Self> {
        match state.first() {
            Some(&VERSION) => {}
            Some(version) if *version > VERSION => {
                return Err(Error::new(ErrorKind::Mismatch, "a newer release wrote the window's state")
                    .with("state version", version)
                    .with("known version", VERSION)
                    .with_help("run the release that wrote the lake, or a later one"));
            }
            _ => return Err(corrupt()),
        }
        let mut reader = Reader(&state[1..]);
        let decoded = Self::read(&mut reader, start, plans).ok_or_else(corrupt)?;
        if reader.0.is_empty() { Ok(decoded) } else { Err(corrupt()) }
    }

    fn read(from: &mut Reader<'_>, start: Timestamp, plans: &mut Plans) -> Option<Self> {
        let mut counts = [0; 12];
        for count in &mut counts {
            *count = from.count()?;
        }
        let [
            total,
            throttled,
            auth_failures,
            client_errors,
            server_errors,
            attempted,
            used,
            billable_requests,
            late,
            request_bytes,
            response_bytes,
            limit,
        ] = counts;
        let units = Units::from_raw(from.i128()?);
        let cost = Money::from_raw(from.i128()?);
        let response_us_sum = from.i128()?;
        let response_ms_max = from.scaled(MICROS)?;
        let risks = from.u64()?;
        let (risk_sum, risk_max) = if risks > 0 { (from.u64()?, from.scaled(RISK_SCALE)?) } else { (0, 0.0) };
        let plan_len = usize::try_from(from.u64()?).ok()?;
        let plan = plans.intern(std::str::from_utf8(from.bytes(plan_len)?).ok()?.as_bytes());
        let plan_time = start.millis().checked_add(from.count()?)?;
        let first_offset = from.u64()?;
        let last_offset = first_offset.checked_add(from.u64()?)?;
        let plan_offset = last_offset.checked_sub(from.u64()?)?;
        let latency = LatencySketch::decode(from)?;
        let keys = DistinctCount::decode(from)?;
        let raised = (0..from.u64()?).map(|_| Raised::decode(from)).collect::<Option<Vec<_>>>()?;
        if throttled > total || !raised.is_sorted_by(|a, b| a.alert_type < b.alert_type) {
            return None;
        }
        Some(Self {
            total,
            throttled,
            auth_failures,
            client_errors,
            server_errors,
            attempted,
            used,
            billable_requests,
            late,
            request_bytes,
            response_bytes,
            units,
            cost,
            response_us_sum,
            response_ms_max,
            risks,
            risk_sum,
            risk_max,
            plan,
            plan_of: (plan_time, plan_offset),
            limit,
            first_offset,
            last_offset,
            latency,
            keys,
            raised,
        })
    }
}

impl Group for UsageState {
    const ONE_ROW: bool = true;

    fn rows(&self) -> usize {
        1
    }

    fn heap_bytes(&self) -> usize {
        self.latency.heap_bytes() + self.keys.heap_bytes() + self.raised.capacity() * size_of::<Raised>()
    }

    fn fetch(&self) -> u64 {
        let integers = self.total ^ self.request_bytes ^ self.last_offset as i64 ^ self.units.raw() as i64;
        integers as u64 ^ self.risk_sum ^ self.latency.fetch() ^ self.keys.fetch()
    }

    fn pack(&self, start: i64, plans: &Plans) -> Option<Box<[u8]>> {
        Some(self.encode(Timestamp::from_millis(start), plans).into())
    }

    fn packed_rows(_: &[u8]) -> usize {
        1
    }

    fn unpack(packed: &[u8], start: i64, plans: &mut Plans) -> Option<Self> {
        Self::decode(packed, Timestamp::from_millis(start), plans).ok()
    }
}

/// A raw decimal as a column of 38 digits holds it.
pub(crate) fn decimal38(raw: i128) -> i128 {
    const GREATEST: i128 = 10i128.pow(38) - 1;
    raw.clamp(-GREATEST, GREATEST)
}

fn corrupt() -> Error {
    Error::new(ErrorKind::Corrupt, "the column `state` holds no window state")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::alert::{Conditions, raise};
    use crate::rules::AlertRules;
    use crate::sketch;

    const START: Timestamp = Timestamp::from_millis(1_772_323_200_000);

    fn sample(offset: u64, status: u16, response_ms: f64, risk: Option<f64>) -> Sample {
        let response_us = whole_micros(response_ms);
        let billed = (status < 300).then_some(Units::ONE);
        Sample {
            offset,
            time: START.millis() + (offset % 60_000) as i64,
            late: offset.is_multiple_of(7),
            status,
            quota_cost: 25,
            billed,
            cost: Money::from_raw(billed.map_or(0, |_| 1_000_000 * 400_000)),
            request_bytes: 100,
            response_bytes: i64::from(status) * 1_000,
            response_ms,
            response_us,
            response_bucket: sketch::bucket(response_us),
            risk,
            key_hash: offset.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            plan: 0,
        }
    }

    fn state(samples: impl IntoIterator<Item = Sample>, preceding: &[i64]) -> UsageState {
        let conditions = Conditions::new(&AlertRules { abuse_min_requests: 3, ..AlertRules::default() });
        let mut samples = samples.into_iter().peekable();
        let mut state = UsageState::new(samples.peek().expect("samples"));
        for sample in samples {
            state.add(&sample, 60);
            conditions.limits(&mut state, WindowKind::Minute, sample.late);
            if let Some(abuse) = conditions.abuse(&state, preceding.iter().copied()) {
                raise(&mut state, abuse);
            }
        }
        state
    }

    fn samples() -> impl Strategy<Value = Vec<Sample>> {
        let risk = prop::option::of(0.0..1.0);
        let one = (0u64..1 << 40, 100u16..600, 0.0..86_400_000.0, risk);
        prop::collection::vec(one.prop_map(|(offset, status, ms, risk)| sample(offset, status, ms, risk)), 1..50)
    }

    proptest! {
        #[test]
        fn state_comes_back(samples in samples(), preceding in prop::collection::vec(1i64..10, 0..5)) {
            let mut plans = Plans::default();
            plans.intern(b"starter");
            let state = state(samples, &preceding);
            let mut elsewhere = Plans::default();
            let bytes = state.encode(START, &plans);
            let decoded = UsageState::decode(&bytes, START, &mut elsewhere).unwrap();
            prop_assert_eq!(&decoded, &state);
            prop_assert_eq!(decoded.encode(START, &elsewhere), bytes);
        }

        #[test]
        fn any_bytes_are_read_or_refused(
            samples in samples(), at in any::<prop::sample::Index>(), byte: u8, more: Vec<u8>,
        ) {
            let mut plans = Plans::default();
            plans.intern(b"starter");
            let mut bytes = state(samples, &[]).encode(START, &plans);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(state) = UsageState::decode(&bytes, START, &mut plans) {
                let (currency, end) = ("USD".into(), WindowKind::Month.end(START));
                let written =
                    Written { group: &state, packed: None, tenant: 0, start: START, end, is_final: false };
                state.to_row(WindowKind::Month, "t".into(), &written, &plans, (&currency, 2));
            }
            bytes.truncate(at);
            bytes.extend(more);
            let _ = UsageState::decode(&bytes, START, &mut plans);
        }
    }

    /// What is stored in lakes. A change of these bytes needs a new version, and a reader of the old one.
    #[test]
    fn golden_state() {
        let mut plans = Plans::default();
        plans.intern(b"free");
        let samples = [(1_000, 200, 12.5, Some(0.25)), (1_001, 429, 0.1 + 0.2, None), (1_003, 404, 99.0, Some(0.5))];
        let state = state(samples.map(|(offset, status, ms, risk)| sample(offset, status, ms, risk)), &[1, 1, 1]);
        let hex: String = state.encode(START, &plans).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN);
    }

    const GOLDEN: &str = "0103010001004b320101ac02a8863f3c80897a8080dd9da417f0d20df08a0c02b0e32dc0843d0466726565eb07e807030003\
        850101ab010160010308b2f43a997cb3081d2e3fba52f6eaa64726d4b8c5e959e3020106";

    #[test]
    fn newer_state_is_refused_by_name() {
        let error = UsageState::decode(&[VERSION + 1, 0], START, &mut Plans::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        let error = UsageState::decode(&[], START, &mut Plans::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn microseconds_are_rounded_half_to_even() {
        for (ms, us) in
            [(0.0, 0), (0.0005, 0), (0.0015, 2), (1.0, 1_000), (0.29, 290), (f64::NAN, 0), (1e300, u64::MAX)]
        {
            assert_eq!(whole_micros(ms), us, "{ms}");
        }
    }
}
