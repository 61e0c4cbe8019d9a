//! Builders of Arrow columns, put together to rows.

use std::sync::Arc;

use deltalake::arrow::array::{
    ArrayBuilder as _, ArrayRef, BinaryBuilder, BooleanBuilder, BooleanBufferBuilder, Decimal128Builder, Float64Builder, Int32Builder,
    Int64Builder, ListArray, MapArray, StringBuilder, StructArray, TimestampMicrosecondBuilder,
};
use deltalake::arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use deltalake::arrow::datatypes::{DataType, FieldRef, Fields};

/// A column that is being built.
pub(crate) trait Column {
    /// An empty one.
    fn empty(data_type: &DataType) -> Self;

    /// What was appended; the column is empty after it.
    fn take(&mut self) -> ArrayRef;
}

macro_rules! primitive_column {
    ($($builder:ident),*) => {$(
        impl Column for $builder {
            fn empty(data_type: &DataType) -> Self {
                Self::new().with_data_type(data_type.clone())
            }

            fn take(&mut self) -> ArrayRef {
                Arc::new(self.finish())
            }
        }
    )*};
}
primitive_column!(Int32Builder, Int64Builder, Float64Builder, TimestampMicrosecondBuilder, Decimal128Builder);

macro_rules! simple_column {
    ($($builder:ident),*) => {$(
        impl Column for $builder {
            fn empty(_: &DataType) -> Self {
                Self::new()
            }

            fn take(&mut self) -> ArrayRef {
                Arc::new(self.finish())
            }
        }
    )*};
}
simple_column!(StringBuilder, BinaryBuilder, BooleanBuilder);

/// `array<string>`
pub(crate) struct Texts {
    element: FieldRef,
    offsets: Vec<i32>,
    values: StringBuilder,
}

impl Texts {
    pub(crate) fn append<'a>(&mut self, texts: impl IntoIterator<Item = &'a str>) {
        texts.into_iter().for_each(|text| self.values.append_value(text));
        self.offsets.push(count(self.values.len()));
    }
}

impl Column for Texts {
    fn empty(data_type: &DataType) -> Self {
        let DataType::List(element) = data_type else { unreachable!("a list of texts is {data_type}") };
        Self { element: element.clone(), offsets: vec![0], values: StringBuilder::new() }
    }

    fn take(&mut self) -> ArrayRef {
        let offsets = std::mem::replace(&mut self.offsets, vec![0]);
        Arc::new(ListArray::new(self.element.clone(), offsets_of(offsets), Arc::new(self.values.finish()), None))
    }
}

/// `array<struct<name: string, value: binary>>`
pub(crate) struct Headers {
    element: FieldRef,
    offsets: Vec<i32>,
    names: StringBuilder,
    values: BinaryBuilder,
}

impl Headers {
    pub(crate) fn append<'a>(&mut self, headers: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>) {
        for (name, value) in headers {
            self.names.append_value(name);
            self.values.append_option(value);
        }
        self.offsets.push(count(self.names.len()));
    }
}

impl Column for Headers {
    fn empty(data_type: &DataType) -> Self {
        let DataType::List(element) = data_type else { unreachable!("a list of headers is {data_type}") };
        Self { element: element.clone(), offsets: vec![0], names: StringBuilder::new(), values: BinaryBuilder::new() }
    }

    fn take(&mut self) -> ArrayRef {
        let offsets = std::mem::replace(&mut self.offsets, vec![0]);
        let headers = structure(&self.element, vec![Arc::new(self.names.finish()), Arc::new(self.values.finish())]);
        Arc::new(ListArray::new(self.element.clone(), offsets_of(offsets), Arc::new(headers), None))
    }
}

/// `map<string, string>`, or null
pub(crate) struct Pairs {
    entry: FieldRef,
    offsets: Vec<i32>,
    names: StringBuilder,
    values: StringBuilder,
    given: BooleanBufferBuilder,
}

impl Pairs {
    pub(crate) fn append<'a>(&mut self, pairs: Option<impl Iterator<Item = (&'a str, &'a str)>>) {
        self.given.append(pairs.is_some());
        for (name, value) in pairs.into_iter().flatten() {
            self.names.append_value(name);
            self.values.append_value(value);
        }
        self.offsets.push(count(self.names.len()));
    }
}

impl Column for Pairs {
    fn empty(data_type: &DataType) -> Self {
        let DataType::Map(entry, _) = data_type else { unreachable!("a map is {data_type}") };
        Self {
            entry: entry.clone(),
            offsets: vec![0],
            names: StringBuilder::new(),
            values: StringBuilder::new(),
            given: BooleanBufferBuilder::new(0),
        }
    }

    fn take(&mut self) -> ArrayRef {
        let offsets = std::mem::replace(&mut self.offsets, vec![0]);
        let entries = structure(&self.entry, vec![Arc::new(self.names.finish()), Arc::new(self.values.finish())]);
        let nulls = NullBuffer::new(self.given.finish());
        Arc::new(MapArray::new(self.entry.clone(), offsets_of(offsets), entries, Some(nulls), false))
    }
}

// A batch is handed on before it holds 2^31 bytes, let alone elements.
#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "see above")]
fn count(elements: usize) -> i32 {
    elements as i32
}

fn offsets_of(offsets: Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::from(offsets))
}

fn structure(field: &FieldRef, columns: Vec<ArrayRef>) -> StructArray {
    let fields = match field.data_type() {
        DataType::Struct(fields) => fields.clone(),
        _ => Fields::empty(),
    };
    StructArray::new(fields, columns, None)
}

/// A struct of columns, in the order of a table's.
macro_rules! rows {
    ($name:ident { $($column:ident: $builder:ty),* $(,)? }) => {
        struct $name {
            schema: deltalake::arrow::datatypes::SchemaRef,
            $($column: $builder,)*
        }

        impl $name {
            /// # Panics
            /// If the columns are not those of the table.
            fn new(table: subscription_core::Table) -> Self {
                let columns = Self::from_column(table, 0);
                assert_eq!(columns.schema.fields().len(), [$(stringify!($column)),*].len());
                columns
            }

            /// For the columns of the table from the one at `first` on.
            fn from_column(table: subscription_core::Table, first: usize) -> Self {
                let schema = $crate::schema::Layout::of(table).file.clone();
                let mut fields = schema.fields().iter().skip(first);
                $(let $column = {
                    let field = fields.next().expect("a field for each column");
                    assert_eq!(field.name(), stringify!($column).trim_start_matches("r#"));
                    <$builder as $crate::columns::Column>::empty(field.data_type())
                };)*
                Self { schema: schema.clone(), $($column),* }
            }

            fn take(&mut self) -> Result<deltalake::arrow::array::RecordBatch, deltalake::arrow::error::ArrowError> {
                deltalake::arrow::array::RecordBatch::try_new(self.schema.clone(), self.take_columns())
            }

            fn take_columns(&mut self) -> Vec<deltalake::arrow::array::ArrayRef> {
                vec![$($crate::columns::Column::take(&mut self.$column)),*]
            }
        }
    };
}
pub(crate) use rows;
