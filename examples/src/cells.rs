//! Columns of Arrow batches as the types that the tables' schemas give them.

use std::sync::Arc;

use subscription_core::{ContentMode, Error, ErrorKind, Result, Units};
use subscription_delta::arrow::array::{
    Array, AsArray, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use subscription_delta::arrow::datatypes::{
    Decimal128Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};

/// Reads columns by name.
///
/// # Errors
/// `Corrupt` where a column is missing or of another type.
pub trait Columns {
    /// The column, whatever its type.
    fn any(&self, name: &str) -> Result<&Arc<dyn Array>>;
    /// A column of texts.
    fn texts(&self, name: &str) -> Result<&StringArray>;
    /// A column of 64-bit integers.
    fn longs(&self, name: &str) -> Result<&Int64Array>;
    /// A column of 32-bit integers.
    fn integers(&self, name: &str) -> Result<&Int32Array>;
    /// A column of doubles.
    fn doubles(&self, name: &str) -> Result<&Float64Array>;
    /// A column of truth values.
    fn booleans(&self, name: &str) -> Result<&BooleanArray>;
    /// A column of times.
    fn times(&self, name: &str) -> Result<&TimestampMicrosecondArray>;
    /// A column of decimals.
    fn decimals(&self, name: &str) -> Result<&Decimal128Array>;
    /// A column of lists.
    fn lists(&self, name: &str) -> Result<&ListArray>;
}

impl Columns for RecordBatch {
    fn any(&self, name: &str) -> Result<&Arc<dyn Array>> {
        self.column_by_name(name).ok_or_else(|| wrong(name, "it is missing"))
    }

    fn texts(&self, name: &str) -> Result<&StringArray> {
        self.any(name)?.as_string_opt::<i32>().ok_or_else(|| wrong(name, "it is not text"))
    }

    fn longs(&self, name: &str) -> Result<&Int64Array> {
        self.any(name)?.as_primitive_opt::<Int64Type>().ok_or_else(|| wrong(name, "it is no 64-bit integer"))
    }

    fn integers(&self, name: &str) -> Result<&Int32Array> {
        self.any(name)?.as_primitive_opt::<Int32Type>().ok_or_else(|| wrong(name, "it is no 32-bit integer"))
    }

    fn doubles(&self, name: &str) -> Result<&Float64Array> {
        self.any(name)?.as_primitive_opt::<Float64Type>().ok_or_else(|| wrong(name, "it is no double"))
    }

    fn booleans(&self, name: &str) -> Result<&BooleanArray> {
        self.any(name)?.as_boolean_opt().ok_or_else(|| wrong(name, "it is no truth value"))
    }

    fn times(&self, name: &str) -> Result<&TimestampMicrosecondArray> {
        self.any(name)?
            .as_primitive_opt::<TimestampMicrosecondType>()
            .ok_or_else(|| wrong(name, "it is no time in microseconds"))
    }

    fn decimals(&self, name: &str) -> Result<&Decimal128Array> {
        self.any(name)?.as_primitive_opt::<Decimal128Type>().ok_or_else(|| wrong(name, "it is no decimal"))
    }

    fn lists(&self, name: &str) -> Result<&ListArray> {
        self.any(name)?.as_list_opt::<i32>().ok_or_else(|| wrong(name, "it is no list"))
    }
}

/// How each record of a batch carries its event, as its `headers` tell.
///
/// # Errors
/// `Corrupt` where the column is missing or of another type.
pub fn content_modes(batch: &RecordBatch) -> Result<Vec<ContentMode>> {
    let lists = batch.lists("headers")?;
    let parts = lists.values().as_struct_opt().filter(|headers| headers.num_columns() == 2).and_then(|headers| {
        Some((headers.column(0).as_string_opt::<i32>()?, headers.column(1).as_binary_opt::<i32>()?))
    });
    let (names, values) = parts.ok_or_else(|| wrong("headers", "it holds no names and values"))?;
    let ends = lists.value_offsets().windows(2);
    let headers = ends.map(|ends| {
        let header = |i: usize| (names.value(i), values.is_valid(i).then(|| values.value(i)));
        ContentMode::of((ends[0] as usize..ends[1] as usize).map(header))
    });
    Ok(headers.collect())
}

fn wrong(column: &str, why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("a column cannot be used: {why}"))
        .with("column", column)
        .with_help("was the table written by this version of the program?")
}

/// A decimal of a column as text, without trailing zeros.
pub fn decimal_text(raw: i128, scale: i8) -> String {
    match u32::try_from(scale) {
        Ok(0) => raw.to_string(),
        Ok(Units::SCALE) => Units::from_raw(raw).to_string(),
        Ok(scale @ 1..=38) => {
            let digits = format!("{:0>width$}", raw.unsigned_abs(), width = scale as usize + 1);
            let (whole, fraction) = digits.split_at(digits.len() - scale as usize);
            let fraction = fraction.trim_end_matches('0');
            let point = if fraction.is_empty() { "" } else { "." };
            format!("{}{whole}{point}{fraction}", if raw < 0 { "-" } else { "" })
        }
        _ => format!("{raw}e{}", -i32::from(scale)),
    }
}

#[cfg(test)]
mod tests {
    use super::decimal_text;

    #[test]
    fn decimals_are_exact_text() {
        for (raw, scale, text) in [
            (0, 6, "0"),
            (1_500_000, 6, "1.5"),
            (-5, 15, "-0.000000000000005"),
            (1_230, 3, "1.23"),
            (7, 0, "7"),
            (7, -2, "7e2"),
        ] {
            assert_eq!(decimal_text(raw, scale), text);
        }
    }
}
