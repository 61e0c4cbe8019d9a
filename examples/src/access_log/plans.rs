//! The plan of each tenant of a log, which has none in it.

use std::collections::BTreeMap;

use subscription_core::{Error, ErrorKind, Result};

/// Which tenant has which plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantPlans {
    default: String,
    by_tenant: BTreeMap<String, String>,
}

impl Default for TenantPlans {
    /// Everyone has the plan `free`.
    fn default() -> Self {
        Self::new("free")
    }
}

impl TenantPlans {
    /// Everyone has this plan.
    pub fn new(default: impl Into<String>) -> Self {
        Self { default: default.into(), by_tenant: BTreeMap::new() }
    }

    /// Reads a mapping: TOML, one `"tenant" = "plan"` a line. `name` is the file's, for errors.
    ///
    /// # Errors
    /// `Configuration` with the line, where it is no such mapping.
    pub fn with_mapping(mut self, text: &str, name: &str) -> Result<Self> {
        self.by_tenant = crate::config::from_toml(text, name)?;
        Ok(self)
    }

    /// The plan of a tenant, who is looked up under the name that the log gives, then under the `tenant_id`.
    pub fn of(&self, name: Option<&str>, tenant_id: Option<&str>) -> &str {
        let named = name.into_iter().chain(tenant_id).find_map(|tenant| self.by_tenant.get(tenant));
        named.unwrap_or(&self.default)
    }

    /// The mapping in one line: what must not change under a lake.
    pub fn fingerprint(&self) -> String {
        let mut text = self.default.clone();
        for (tenant, plan) in &self.by_tenant {
            text.push_str(&format!("\n{tenant}\t{plan}"));
        }
        if self.by_tenant.is_empty() { text } else { format!("{:032x}", xxhash_rust::xxh3::xxh3_128(text.as_bytes())) }
    }

    /// Checks that every plan named is one of the catalog.
    ///
    /// # Errors
    /// `Configuration`, with the plan and a tenant who has it.
    pub fn check(&self, mut known: impl FnMut(&str) -> bool) -> Result<()> {
        let named = self.by_tenant.iter().map(|(tenant, plan)| (Some(tenant), plan));
        for (tenant, plan) in std::iter::once((None, &self.default)).chain(named) {
            if !known(plan) {
                let error = Error::new(ErrorKind::Configuration, format!("unknown plan `{plan}`"));
                let error = match tenant {
                    Some(tenant) => error.with("tenant", tenant),
                    None => error.with("setting", "default_plan"),
                };
                return Err(error.with_help("name a plan of the catalog (--plans), or add it there"));
            }
        }
        Ok(())
    }
}
