//! `pipeline show`: rows of a table as columns, as JSON lines or as CSV.

use std::io::{self, Write};

use serde_json::{Map, Value};
use subscription_core::Timestamp;
use subscription_delta::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use subscription_delta::arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use subscription_delta::arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::cells::decimal_text;
use crate::text::{Align, columns, cut};

/// How rows are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ShowFormat {
    /// Columns; wide cells are cut
    #[default]
    Table,
    /// One JSON object a line; decimals are text, so that none loses a digit
    Json,
    /// Comma-separated values (RFC 4180), the names first
    Csv,
}

/// Writes batches one after the other.
pub struct Shower<W> {
    format: ShowFormat,
    out: W,
    /// For columns, which are as wide as their widest cell.
    rows: Vec<Vec<String>>,
    align: Vec<Align>,
    begun: bool,
}

/// The widest cell of a table.
const WIDEST: usize = 48;

impl<W: Write> Shower<W> {
    /// Writes to `out`.
    pub fn new(format: ShowFormat, out: W) -> Self {
        Self { format, out, rows: Vec::new(), align: Vec::new(), begun: false }
    }

    /// Adds rows.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn add(&mut self, batch: &RecordBatch) -> io::Result<()> {
        let schema = batch.schema();
        let names = || schema.fields().iter().map(|field| field.name().clone());
        if !std::mem::replace(&mut self.begun, true) {
            match self.format {
                ShowFormat::Table => {
                    self.align = schema.fields().iter().map(|field| align(field.data_type())).collect();
                    self.rows.push(names().collect());
                }
                ShowFormat::Csv => self.csv(names())?,
                ShowFormat::Json => {}
            }
        }
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter().map(|column| cell(column, row));
            match self.format {
                ShowFormat::Table => self.rows.push(cells.map(|cell| cut(&text(&cell), WIDEST)).collect()),
                ShowFormat::Csv => self.csv(cells.map(|cell| text(&cell)))?,
                ShowFormat::Json => {
                    let object: Map<_, _> = names().zip(cells).collect();
                    serde_json::to_writer(&mut self.out, &object)?;
                    self.out.write_all(b"\n")?;
                }
            }
        }
        Ok(())
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(mut self) -> io::Result<()> {
        self.out.write_all(columns(&self.align, &self.rows).as_bytes())?;
        self.out.flush()
    }

    fn csv(&mut self, cells: impl Iterator<Item = String>) -> io::Result<()> {
        for (i, cell) in cells.enumerate() {
            if i > 0 {
                self.out.write_all(b",")?;
            }
            if cell.contains([',', '"', '\n', '\r']) {
                write!(self.out, "\"{}\"", cell.replace('"', "\"\""))?;
            } else {
                self.out.write_all(cell.as_bytes())?;
            }
        }
        self.out.write_all(b"\r\n")
    }
}

fn align(data_type: &DataType) -> Align {
    if data_type.is_numeric() { Align::Right } else { Align::Left }
}

/// A cell as JSON. Times and dates are RFC 3339 text, decimals are text, bytes are text where they are UTF-8, else `0x…`.
fn cell(column: &ArrayRef, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(row).into(),
        DataType::Boolean => column.as_boolean().value(row).into(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).into(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(row).into(),
        DataType::Decimal128(_, scale) => {
            decimal_text(column.as_primitive::<Decimal128Type>().value(row), *scale).into()
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let micros = column.as_primitive::<TimestampMicrosecondType>().value(row);
            Timestamp::from_millis(micros.div_euclid(1_000)).to_string().into()
        }
        DataType::Date32 => {
            let days = column.as_primitive::<Date32Type>().value(row);
            Timestamp::from_millis(i64::from(days) * 86_400_000).date().into()
        }
        DataType::Binary => bytes(column.as_binary::<i32>().value(row)).into(),
        DataType::List(_) => {
            let list = column.as_list::<i32>().value(row);
            (0..list.len()).map(|i| cell(&list, i)).collect()
        }
        DataType::Struct(fields) => {
            let parts = column.as_struct().columns();
            fields.iter().zip(parts).map(|(field, part)| (field.name().clone(), cell(part, row))).collect()
        }
        DataType::Map(..) => {
            let entries = column.as_map().value(row);
            let (keys, values) = (entries.column(0), entries.column(1));
            (0..entries.len()).map(|i| (text(&cell(keys, i)), cell(values, i))).collect()
        }
        // What SQL answers may have any type.
        _ => match ArrayFormatter::try_new(column, &FormatOptions::default()) {
            Ok(formatter) => formatter.value(row).to_string().into(),
            Err(error) => format!("({error})").into(),
        },
    }
}

fn bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}")),
    }
}

/// A cell as text; null is empty.
fn text(cell: &Value) -> String {
    match cell {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use subscription_delta::arrow::array::{
        BinaryArray, Decimal128Array, Float64Array, Int64Array, ListBuilder, StringArray, StringBuilder,
        TimestampMicrosecondArray,
    };

    use super::*;

    fn batch() -> RecordBatch {
        let decimals = Decimal128Array::from(vec![1_500_000, -1]).with_precision_and_scale(38, 6).expect("a decimal");
        let mut lists = ListBuilder::new(StringBuilder::new());
        lists.append_value([Some("a"), Some("b")]);
        lists.append_value([] as [Option<&str>; 0]);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("tenant", Arc::new(StringArray::from(vec![Some("a \"b\", c"), None]))),
            ("n", Arc::new(Int64Array::from(vec![7, 12_345]))),
            ("ratio", Arc::new(Float64Array::from(vec![0.5, f64::INFINITY]))),
            ("units", Arc::new(decimals)),
            ("time", Arc::new(TimestampMicrosecondArray::from(vec![1_000_000, -1_000]).with_timezone("UTC"))),
            ("payload", Arc::new(BinaryArray::from(vec![&b"{}\n"[..], b"\xff\x00"]))),
            ("codes", Arc::new(lists.finish())),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
            .expect("a batch")
    }

    fn shown(format: ShowFormat) -> String {
        let mut out = Vec::new();
        let mut shower = Shower::new(format, &mut out);
        shower.add(&batch()).expect("memory");
        shower.add(&batch().slice(0, 0)).expect("memory");
        shower.finish().expect("memory");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn columns_for_people() {
        assert_eq!(
            shown(ShowFormat::Table),
            "  tenant        n  ratio  units      time                      payload  codes
  a \"b\", c      7    0.5  1.5        1970-01-01T00:00:01.000Z  {}·      [\"a\",\"b\"]
            12345         -0.000001  1969-12-31T23:59:59.999Z  0xff00   []
"
            .replace("  units      time", "      units  time")
            .replace("  1.5        1970", "        1.5  1970")
        );
    }

    #[test]
    fn json_lines_are_exact() {
        assert_eq!(
            shown(ShowFormat::Json),
            concat!(
                r#"{"codes":["a","b"],"n":7,"payload":"{}\n","ratio":0.5,"tenant":"a \"b\", c","time":"1970-01-01T00:00:01.000Z","units":"1.5"}"#,
                "\n",
                r#"{"codes":[],"n":12345,"payload":"0xff00","ratio":null,"tenant":null,"time":"1969-12-31T23:59:59.999Z","units":"-0.000001"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn csv_as_rfc_4180_has_it() {
        assert_eq!(
            shown(ShowFormat::Csv),
            "tenant,n,ratio,units,time,payload,codes\r\n\
             \"a \"\"b\"\", c\",7,0.5,1.5,1970-01-01T00:00:01.000Z,\"{}\n\",\"[\"\"a\"\",\"\"b\"\"]\"\r\n\
             ,12345,,-0.000001,1969-12-31T23:59:59.999Z,0xff00,[]\r\n"
        );
    }
}
