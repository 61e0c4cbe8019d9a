use subscription_core::Table;

use super::*;

fn example() -> Summary {
    let counts = Counts { read: 10_000, dead_lettered: 12, accepted: 9_700, duplicates: 200, quarantined: 88 };
    let code = |code: &str, records| CodeCount { code: code.to_owned(), records };
    let alert = |alert_type: &str, severity: &str, alerts, tenants| AlertCount {
        alert_type: alert_type.to_owned(),
        severity: severity.to_owned(),
        alerts,
        tenants,
    };
    let plan = |plan: &str, tenants, units: &str, due: &str| PlanBill {
        plan: plan.to_owned(),
        tenants,
        billable_units: units.to_owned(),
        amount_due: due.to_owned(),
    };
    let bill = |month: &str, tenants, requests, units: &str, due: &str, plans| Bill {
        month: month.to_owned(),
        tenants,
        requests,
        billable_units: units.to_owned(),
        amount_due: due.to_owned(),
        currency: "USD".to_owned(),
        plans,
    };
    let tenant = |id: &str, plan: &str, used, limit| TenantUsage {
        tenant_id: id.to_owned(),
        month: "2026-02".to_owned(),
        subscription_plan: plan.to_owned(),
        total_requests: used + 3,
        quota_used: used,
        plan_limit: limit,
        usage_ratio: used as f64 / limit as f64,
        amount_due: "0".to_owned(),
    };
    let table = |(i, table): (usize, Table)| TableSummary {
        table: table.name(),
        rows: [12, 9_988, 88, 9_700, 4_100, 900, 2_222, 31, 55][i],
        version: 8,
        files: 1 + i as u64,
        bytes: 700 << (2 * i),
        positions: vec![Position { topic: "file".to_owned(), partition: 0, position: 10_001 }],
    };
    Summary {
        lake: "/tmp/my lake".to_owned(),
        run: Some(RunSummary {
            ended: true,
            seconds: 0.5,
            read: 10_000,
            layers: layers(
                &Reached::default(),
                &Reached { bronze: 10_000, silver: 9_988, gold: 9_700 },
                Duration::from_millis(500),
            ),
        }),
        tables: Table::ALL.into_iter().enumerate().map(table).collect(),
        ledger: counts.into(),
        dead_letters: vec![code("not_json", 11), code("too_large", 1)],
        quarantine: vec![code("missing_field:tenant_id", 80), code("not_in_enum:http_method", 8)],
        alerts: vec![alert("over_limit", "critical", 3, 1), alert("quota_exceeded", "critical", 52, 20)],
        bills: vec![
            bill("2026-01", 12, 2_100, "2000", "0.125", vec![]),
            bill(
                "2026-02",
                31,
                7_600,
                "7123456.5",
                "2849.38",
                vec![plan("free", 30, "6000", "0"), plan("pro", 1, "7117456.5", "2849.38")],
            ),
        ],
        top_tenants: vec![tenant("acme", "pro", 2_500_000, 5_000_000), tenant("2001:db8::1", "free", 12_000, 10_000)],
    }
}

#[test]
fn the_page_for_people() {
    let expected = "\
Read to the end: 10,000 records in 500 ms, 20,000/s
  bronze  +10,000  20,000/s
  silver   +9,988  19,976/s
  gold     +9,700  19,400/s

Ledger (closed)
  10,000     read             9,988     bronze
   9,988  =  bronze           9,700  =  silver
      12  +  dead letters       200  +  duplicates
                                 88  +  quarantine

Dead letters by code
  not_json   11  ██████████████████▍·
  too_large   1  █▋··················

Quarantine by code
  missing_field:tenant_id  80  ██████████████████▏·
  not_in_enum:http_method   8  █▉··················

Top tenants of 2026-02, quota used against plan
  acme         pro   2,500,000  of  5,000,000  ██████████··········   50.0 %
  2001:db8::1  free     12,000  of     10,000  ████████████████████  120.0 %

Alerts by type
  over_limit      critical   3  of 1 tenant
  quota_exceeded  critical  52  of 20 tenants

Bill of 2026-02
  free   30  tenants        6,000  units      0.00  USD
  pro     1  tenants  7,117,456.5  units  2,849.38  USD
  total  31  tenants  7,123,456.5  units  2,849.38  USD
  2026-01 before: 2,100 requests, 0.125 USD

Tables in /tmp/my lake
  table                   rows  version  files      bytes
  dead_letter               12        8      1      700 B
  bronze_api_usage       9,988        8      2    2.7 KiB
  quarantine_silver         88        8      3   10.9 KiB
  silver_api_usage       9,700        8      4   43.8 KiB
  tenant_usage_1min      4,100        8      5  175.0 KiB
  tenant_usage_hourly      900        8      6  700.0 KiB
  endpoint_usage_hourly  2,222        8      7    2.7 MiB
  tenant_usage_monthly      31        8      8   10.9 MiB
  enforcement_alerts        55        8      9   43.8 MiB

Look further
  pipeline show tenant_usage_hourly --lake '/tmp/my lake' --limit 20
  pipeline verify --lake '/tmp/my lake'
";
    let page = example().render();
    assert_eq!(page, expected, "\n{page}");
}

#[test]
fn an_empty_lake_has_a_page_too() {
    let empty = Summary {
        run: None,
        tables: vec![],
        ledger: Counts::default().into(),
        dead_letters: vec![],
        quarantine: vec![],
        alerts: vec![],
        bills: vec![],
        top_tenants: vec![],
        ..example()
    };
    let page = empty.render();
    assert!(page.starts_with("Ledger (closed)\n  0     read"), "{page}");
    assert!(!page.contains("Bill") && !page.contains("Alerts") && !page.contains("by code"), "{page}");
}

#[test]
fn a_broken_ledger_is_not_overlooked() {
    let counts = Counts { read: 2, accepted: 1, ..Counts::default() };
    assert!(Summary { ledger: counts.into(), ..example() }.render().contains("Ledger (BROKEN)"));
}

#[test]
fn the_page_for_programs_has_stable_keys() {
    let json: serde_json::Value = serde_json::from_str(&example().json()).expect("JSON");
    let keys: Vec<_> = json.as_object().expect("an object").keys().cloned().collect();
    assert_eq!(
        keys,
        ["alerts", "bills", "dead_letters", "lake", "ledger", "quarantine", "run", "tables", "top_tenants"]
    );
    assert_eq!(json["ledger"]["balanced"], true);
    assert_eq!(json["run"]["layers"][1]["per_second"], 19_976.0);
    assert_eq!(json["bills"][1]["amount_due"], "2849.38");
    assert_eq!(json["tables"][3]["table"], "silver_api_usage");
    assert_eq!(json["tables"][3]["positions"][0]["position"], 10_001);
}

#[test]
fn paths_are_quoted_for_a_shell() {
    assert_eq!([quoted("a/b-1.x"), quoted("it's"), quoted("")], ["a/b-1.x", r"'it'\''s'", "''"]);
}
