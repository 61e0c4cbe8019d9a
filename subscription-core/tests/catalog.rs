//! The plan catalog: files and their errors, entries in time, what may change under a lake.
#![cfg(feature = "catalog")]

use proptest::prelude::*;
use subscription_core::{
    Catalog, CatalogBuilder, ErrorKind, MAX_LIMIT, Overrides, Plan, Price, Timestamp, WindowAlgorithm,
};

fn price(text: &str) -> Price {
    Price::parse_exact(text).unwrap()
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

#[test]
fn the_default_catalog_is_the_file_of_the_crate() {
    let catalog = Catalog::default();
    assert_eq!(catalog, Catalog::load(concat!(env!("CARGO_MANIFEST_DIR"), "/plans.toml")).unwrap());
    assert_eq!(catalog.currency(), ("USD", 2));
    assert_eq!(catalog.plan_names(), ["enterprise", "free", "pro", "starter"]);
    let starter = catalog.terms("anyone", "starter", Timestamp::EPOCH).unwrap();
    assert_eq!((starter.per_minute, starter.per_hour, starter.per_month), (300, 10_000, 500_000));
    assert_eq!(starter.price, price("0.5"));
    assert_eq!(catalog.terms("anyone", "Starter", Timestamp::EPOCH), None);
}

#[test]
fn the_documented_example_loads() {
    let catalog = Catalog::load(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/plans.toml")).unwrap();
    let july = at(1_782_864_000_000);
    let (before, after) = (july.plus_millis(-1), july);
    assert_eq!(catalog.terms("x", "pro", before).unwrap().price, price("0.40"));
    assert_eq!(catalog.terms("x", "pro", after).unwrap().price, price("0.38"));
    let acme = catalog.plan("acme", "pro", before).unwrap();
    assert_eq!((acme.terms.per_minute, acme.terms.per_hour), (2_500, 50_000));
    let globex = |time| catalog.terms("globex.com", "free", time).unwrap().per_month;
    assert_eq!((globex(before), globex(after)), (20_000, 10_000), "an entry without values ends the overrides");
}

/// A valid file of one plan, in which the tests replace a part.
const BASIC: &str = "currency = \"EUR\"\ncurrency_digits = 2\n\n[plans.basic]\nper_minute = 10\nper_hour = 100\n\
    per_month = 1000\nprice_per_thousand_units = 0.3\n";

#[test]
fn numbers_are_read_to_the_digit() {
    for (written, read) in [
        ("0.3", "0.3"),
        ("+0.3", "0.3"),
        ("\"0.30\"", "0.3"),
        ("'1e-6'", "0.000001"),
        ("12", "12"),
        ("1_0.000_001", "10.000001"),
        ("123456789.123456", "123456789.123456"),
        ("1000000000", "1000000000"),
        ("0", "0"),
        ("-0.0", "0"),
    ] {
        let text = BASIC.replace("0.3", written);
        let catalog = Catalog::from_toml(&text, "p").unwrap_or_else(|e| panic!("{written}: {e}"));
        assert_eq!(catalog.terms("t", "basic", Timestamp::EPOCH).unwrap().price, price(read), "{written}");
    }
    for (written, read) in [("1_0", 10), ("+10", 10), ("0xff", 255), ("0", 0), ("999999999999999", MAX_LIMIT)] {
        let catalog = Catalog::from_toml(&BASIC.replace("per_hour = 100", &format!("per_hour = {written}")), "p");
        assert_eq!(catalog.unwrap().terms("t", "basic", Timestamp::EPOCH).unwrap().per_hour, read, "{written}");
    }
}

#[test]
fn errors_name_file_line_and_key() {
    const HOUR: &str = "per_hour = 100";
    const LIMIT: &str = "expected a whole number from 0 to 999999999999999";
    const PRICE: &str = "expected a number from 0 to 1000000000 with at most 6 decimal places";
    let cases = [
        (HOUR, "per_hour = \"sixty\"", format!(":6: plans.basic.per_hour: {LIMIT}, found \"sixty\"")),
        (HOUR, "per_hour = -1", format!(":6: plans.basic.per_hour: {LIMIT}, found -1")),
        (HOUR, "per_hour = 1e3", format!(":6: plans.basic.per_hour: {LIMIT}, found 1e3")),
        (HOUR, "per_hour = 1000000000000000", format!(":6: plans.basic.per_hour: {LIMIT}")),
        (HOUR, "per_hour = 99999999999999999999", format!(":6: plans.basic.per_hour: {LIMIT}")),
        (HOUR, "per_hours = 100", ":4: plans.basic.per_hour: missing (further errors: 1)".into()),
        (
            HOUR,
            "per_hour = 1\nper_day = 7",
            ":7: plans.basic.per_day: unknown key; known are effective_from, per".into(),
        ),
        (HOUR, "per_hour = 1\nper_hour = 1", ":7: duplicate key".into()),
        (HOUR, "per_hour = ", ":6: ".into()),
        ("0.3", "0.1234567", format!(":8: plans.basic.price_per_thousand_units: {PRICE}, found 0.1234567")),
        ("0.3", "-0.1", format!(":8: plans.basic.price_per_thousand_units: {PRICE}")),
        ("0.3", "nan", format!(":8: plans.basic.price_per_thousand_units: {PRICE}")),
        ("0.3", "inf", format!(":8: plans.basic.price_per_thousand_units: {PRICE}")),
        ("0.3", "0x10", format!(":8: plans.basic.price_per_thousand_units: {PRICE}")),
        ("0.3", "1000000000.000001", format!(":8: plans.basic.price_per_thousand_units: {PRICE}")),
        ("0.3", "\"free\"", format!(":8: plans.basic.price_per_thousand_units: {PRICE}, found \"free\"")),
        ("0.3", "[0.3]", format!(":8: plans.basic.price_per_thousand_units: {PRICE}, found an array")),
        ("0.3", "0.3\nwindow = \"x\"", ":9: plans.basic.window: expected \"sliding\" or \"fixed\", found \"x\"".into()),
        ("0.3", "0.3\nfailure_policy = true", ":9: plans.basic.failure_policy: expected \"open\", \"closed\"".into()),
        ("0.3", "0.3\neffective_from = 2026-07-01", ":9: plans.basic.effective_from: expected a date and time".into()),
        ("0.3", "0.3\neffective_from = 2026-07-01T00:00:00", ":9: plans.basic.effective_from: expected".into()),
        ("0.3", "0.3\n[tenants.acme]", ":9: tenants.acme: the tenant's first entry overrides nothing".into()),
        ("0.3", "0.3\n[tenants.a.com]\nper_hour = 1", ":9: tenants.a.com: unknown key; a name with a dot is".into()),
        ("0.3", "0.3\n[tenants.\"a b\"]\nper_hour = 1", ":9: tenants.a b: name: expected a tenant id".into()),
        ("0.3", "0.3\n[tenants.a]\nper_hour = 1.0", format!(":10: tenants.a.per_hour: {LIMIT}")),
        ("0.3", "0.3\n[tenants]\na = 1", ":10: tenants.a: expected a table, found 1".into()),
        ("0.3", "0.3\n[tenants]\na = []", ":10: tenants.a: expected at least one entry".into()),
        ("[plans.basic]", "[plans.\" \"]", ":4: plans. : name: expected a plan's name".into()),
        ("[plans.basic]", "[plan.basic]", ":1: plans: expected at least one plan, as [plans.basic] (further".into()),
        ("\"EUR\"", "\"euro\"", ":1: currency: expected an ISO 4217 code as \"USD\", found \"euro\"".into()),
        ("digits = 2", "digits = 9", ":2: currency_digits: expected a whole number from 0 to 4, found 9".into()),
        ("currency_digits = 2", "", ":1: currency: currency_digits is missing".into()),
    ];
    for (from, to, message) in cases {
        let error = Catalog::from_toml(&BASIC.replacen(from, to, 1), "plans.toml").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let expected = format!("plans.toml{message}");
        assert!(error.to_string().starts_with(&expected), "{to}\n  expected {expected}\n  found    {error}");
    }
    assert!(Catalog::from_toml("", "p").unwrap_err().to_string().starts_with("p:1: plans: expected at least one plan"));
    let once = "[[plans.a]]\nper_minute=1\nper_hour=1\nper_month=1\nprice_per_thousand_units=1\n\
        effective_from=2026-07-01T02:00:00+02:00\n";
    let twice = format!("{once}{}", once.replace("T02:00:00+02:00", "T00:00:00Z"));
    let error = Catalog::from_toml(&twice, "p").unwrap_err().to_string();
    assert_eq!(error, "p:12: plans.a: effective_from: another entry has effective_from 2026-07-01T00:00:00.000Z too");
}

#[test]
fn unreadable_files_are_named() {
    let dir = env!("CARGO_MANIFEST_DIR");
    let missing = Catalog::load(format!("{dir}/no-such.toml")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.to_string().contains("no-such.toml: cannot read the plan catalog"));
    let folder = Catalog::load(dir).unwrap_err();
    assert_eq!(folder.kind(), ErrorKind::Configuration);
}

#[test]
fn the_builder_refuses_what_a_file_would() {
    let plan = Plan::new(1, 2, 3, Price::ZERO);
    let error = |builder: CatalogBuilder| builder.build().unwrap_err().to_string();
    assert!(error(Catalog::builder()).contains("at least one plan"));
    assert!(error(Catalog::builder().currency("usd", 2).plan("a", plan)).contains("ISO 4217"));
    assert!(error(Catalog::builder().plan("a", Plan::new(-1, 2, 3, Price::ZERO))).contains("plans.a: per_minute"));
    assert!(error(Catalog::builder().plan("a", plan).plan("a", plan)).contains("another entry has no effective_from"));
    assert!(error(Catalog::builder().plan("a", plan).tenant("t", Overrides::default())).contains("overrides nothing"));
    assert!(error(Catalog::builder().plan("a", plan).tenant("-t", Overrides::default())).contains("tenant id"));
    assert!(error(Catalog::builder().plan_from("a", Timestamp::MAX, plan)).contains("years 0 to 9999"));
}

#[test]
fn a_stored_catalog_that_cannot_be_read_is_an_error() {
    let json = Catalog::default().to_canonical_json();
    for (from, to) in [("USD", "usd"), ("\"0.5\"", "\"0.5x\""), ("per_hour", "per_day"), ("{", "["), ("60", "-1")] {
        let error = Catalog::from_canonical_json(&json.replacen(from, to, 1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}

#[derive(Debug, Clone)]
struct Model {
    currency: (&'static str, u32),
    plans: Vec<(&'static str, Option<i64>, Plan)>,
    tenants: Vec<(&'static str, Option<i64>, Overrides)>,
}

/// The entry in force: a loop over all, of which the last of the same time counts.
fn in_force<T: Copy>(entries: &[(&'static str, Option<i64>, T)], name: &str, now: i64) -> Option<T> {
    let mut best: Option<(Option<i64>, T)> = None;
    for (of, from, value) in entries {
        if *of == name && from.is_none_or(|from| from <= now) && best.is_none_or(|(old, _)| old <= *from) {
            best = Some((*from, *value));
        }
    }
    best.map(|(_, value)| value)
}

impl Model {
    fn build(&self) -> Catalog {
        let mut builder = Catalog::builder().currency(self.currency.0, self.currency.1);
        let time = |from: Option<i64>| from.map_or(Timestamp::MIN, at);
        for (i, (name, from, plan)) in self.plans.iter().enumerate() {
            if !self.plans[i + 1..].iter().any(|later| (later.0, later.1) == (*name, *from)) {
                builder = builder.plan_from(name, time(*from), *plan);
            }
        }
        for (i, (id, from, own)) in self.tenants.iter().enumerate() {
            if !self.tenants[i + 1..].iter().any(|later| (later.0, later.1) == (*id, *from)) {
                builder = builder.tenant_from(id, time(*from), *own);
            }
        }
        builder.build().unwrap()
    }

    fn plan(&self, tenant: &str, plan: &str, now: i64) -> Option<Plan> {
        let plan = in_force(&self.plans, plan, now)?;
        Some(in_force(&self.tenants, tenant, now).map_or(plan, |own| own.apply(&plan)))
    }
}

/// Times 0 to 19, so that entries often meet.
fn from() -> impl Strategy<Value = Option<i64>> {
    prop::option::weighted(0.7, 0..20i64)
}

fn models() -> impl Strategy<Value = Model> {
    let plan = (0..3i64, 0..3i64, 0..3i64, 0..3i128, any::<bool>()).prop_map(|(minute, hour, month, price, fixed)| {
        let mut plan = Plan::new(minute, hour, month, Price::from_raw(price));
        if fixed {
            plan.enforcement.window = WindowAlgorithm::Fixed;
        }
        plan
    });
    let own = (prop::option::of(0..3i64), prop::option::of(0..3i64), prop::option::of(0..3i128), 0..3i64).prop_map(
        |(per_minute, per_month, price, per_hour)| Overrides {
            per_minute,
            per_month,
            per_hour: Some(per_hour),
            price: price.map(Price::from_raw),
            ..Overrides::default()
        },
    );
    (
        prop::sample::select(vec![("USD", 2), ("JPY", 0)]),
        prop::collection::vec((prop::sample::select(vec!["a", "b"]), from(), plan), 1..5),
        prop::collection::vec((prop::sample::select(vec!["t", "u"]), from(), own), 0..4),
    )
        .prop_map(|(currency, plans, tenants)| Model { currency, plans, tenants })
}

proptest! {
    #[test]
    fn entries_hold_from_their_time_on(model in models()) {
        let catalog = model.build();
        for tenant in ["t", "u", "other"] {
            for plan in ["a", "b", "c"] {
                for now in -1..21 {
                    let expected = model.plan(tenant, plan, now);
                    prop_assert_eq!(catalog.plan(tenant, plan, at(now)), expected);
                    let Some(valid) = catalog.terms_until(tenant, plan, at(now)) else { continue };
                    prop_assert!(valid.contains(at(now)));
                    for other in (-1..21).filter(|other| valid.contains(at(*other))) {
                        prop_assert_eq!(catalog.terms(tenant, plan, at(other)), Some(valid.value));
                    }
                }
            }
        }
    }

    #[test]
    fn json_gives_the_same_catalog_back(model in models()) {
        let catalog = model.build();
        let json = catalog.to_canonical_json();
        let back = Catalog::from_canonical_json(&json).unwrap();
        prop_assert_eq!(&back, &catalog);
        prop_assert_eq!(back.to_canonical_json(), json);
    }

    #[test]
    fn a_difference_is_one_of_terms_in_force(old in models(), changed in models(), part in 0..4, time in -1..21i64) {
        // Mostly alike, or every pair would differ.
        let new = match part {
            0 => changed,
            1 => Model { plans: [&old.plans[..], &changed.plans[..1]].concat(), ..old.clone() },
            2 => Model { tenants: changed.tenants, ..old.clone() },
            _ => old.clone(),
        };
        let (before, after) = (old.build(), new.build());
        let differs = old.currency != new.currency
            || (-1..=time).any(|now| {
                ["t", "u", "other"].iter().any(|tenant| {
                    ["a", "b"].iter().any(|plan| {
                        let terms = |model: &Model| model.plan(tenant, plan, now).map(|plan| plan.terms);
                        terms(&old) != terms(&new)
                    })
                })
            });
        let found = after.differs_before(&before, at(time));
        prop_assert_eq!(found.is_some(), differs, "{:?}", found);
        prop_assert_eq!(before.differs_before(&after, at(time)).is_some(), differs);
    }

    #[test]
    fn no_text_panics(start in 0..BASIC.len(), cut in 0..20usize, junk in "\\PC{0,12}") {
        let mut text = BASIC.to_owned();
        text.replace_range(start..(start + cut).min(BASIC.len()), &junk);
        if let Ok(catalog) = Catalog::from_toml(&text, "p") {
            prop_assert_eq!(Catalog::from_canonical_json(&catalog.to_canonical_json()).unwrap(), catalog);
        }
    }
}
