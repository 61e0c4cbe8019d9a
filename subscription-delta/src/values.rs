//! Columns of a batch that was read, by name and type.

use deltalake::arrow::array::{
    Array, AsArray as _, BinaryArray, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, ListArray,
    MapArray, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use deltalake::arrow::datatypes::{Decimal128Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use subscription_core::{Result, Timestamp};

use crate::error::Doing;

/// A batch whose columns are asked for by name.
#[derive(Clone, Copy)]
pub(crate) struct Values<'a> {
    batch: &'a RecordBatch,
    doing: Doing<'a>,
}

/// Times of a column.
#[derive(Clone, Copy)]
pub(crate) struct Times<'a>(&'a TimestampMicrosecondArray);

impl Times<'_> {
    pub(crate) fn at(&self, row: usize) -> Timestamp {
        Timestamp::from_millis(self.0.value(row).div_euclid(1_000))
    }
}

impl<'a> Values<'a> {
    pub(crate) fn new(batch: &'a RecordBatch, doing: Doing<'a>) -> Self {
        Self { batch, doing }
    }

    fn column<T>(&self, name: &str, cast: impl FnOnce(&'a dyn Array) -> Option<&'a T>) -> Result<&'a T> {
        let column = self.batch.column_by_name(name);
        column
            .and_then(|column| cast(column.as_ref()))
            .ok_or_else(|| self.doing.corrupt(format_args!("it has no column `{name}` of the table's type")))
    }

    pub(crate) fn texts(&self, name: &str) -> Result<&'a StringArray> {
        self.column(name, |column| column.as_string_opt::<i32>())
    }

    pub(crate) fn bytes(&self, name: &str) -> Result<&'a BinaryArray> {
        self.column(name, |column| column.as_binary_opt::<i32>())
    }

    pub(crate) fn booleans(&self, name: &str) -> Result<&'a BooleanArray> {
        self.column(name, |column| column.as_boolean_opt())
    }

    pub(crate) fn integers(&self, name: &str) -> Result<&'a Int32Array> {
        self.column(name, |column| column.as_primitive_opt::<Int32Type>())
    }

    pub(crate) fn longs(&self, name: &str) -> Result<&'a Int64Array> {
        self.column(name, |column| column.as_primitive_opt::<Int64Type>())
    }

    pub(crate) fn doubles(&self, name: &str) -> Result<&'a Float64Array> {
        self.column(name, |column| column.as_primitive_opt::<Float64Type>())
    }

    pub(crate) fn decimals(&self, name: &str) -> Result<&'a Decimal128Array> {
        self.column(name, |column| column.as_primitive_opt::<Decimal128Type>())
    }

    pub(crate) fn times(&self, name: &str) -> Result<Times<'a>> {
        self.column(name, |column| column.as_primitive_opt::<TimestampMicrosecondType>()).map(Times)
    }

    pub(crate) fn lists(&self, name: &str) -> Result<&'a ListArray> {
        self.column(name, |column| column.as_list_opt::<i32>())
    }

    pub(crate) fn maps(&self, name: &str) -> Result<&'a MapArray> {
        self.column(name, |column| column.as_map_opt())
    }
}
