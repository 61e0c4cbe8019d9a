//! Builders of Arrow columns, put together to rows.

use std::sync::Arc;

use bytes::Bytes;
use deltalake::arrow::array::{
    ArrayBuilder as _, ArrayRef, BinaryBuilder, BinaryViewBuilder, BooleanBufferBuilder, BooleanBuilder,
    Decimal128Builder, Float64Builder, Int32Builder, Int64Builder, ListArray, MapArray, StringBuilder, StructArray,
    TimestampMicrosecondBuilder,
};
use deltalake::arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use deltalake::arrow::datatypes::{DataType, FieldRef, Fields};
use deltalake::arrow::error::ArrowError;
use subscription_core::{Record, RecordBatch as Records, Table};

use crate::schema::Layout;

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
simple_column!(BooleanBuilder);

macro_rules! bytes_column {
    ($($builder:ident),*) => {$(
        impl Column for $builder {
            fn empty(_: &DataType) -> Self {
                Self::new()
            }

            fn take(&mut self) -> ArrayRef {
                // The next rows will need about as much: growing anew would copy them several times.
                let (rows, bytes) = (self.len(), self.values_slice().len());
                let column = self.finish();
                *self = Self::with_capacity(rows, bytes);
                Arc::new(column)
            }
        }
    )*};
}
bytes_column!(StringBuilder, BinaryBuilder);

/// A column of the payloads of records, left where they are.
pub(crate) struct Payloads {
    views: BinaryViewBuilder,
    /// The batch of records that the last block is the memory of, by its address.
    block: Option<(*const Records, u32)>,
}

impl Payloads {
    /// # Errors
    /// If the payload lies outside of the memory of its batch.
    pub(crate) fn append(&mut self, batch: &Records, record: &Record<'_>) -> Result<(), ArrowError> {
        let (start, len) = (record.payload_start().unwrap_or_default(), record.payload().map_or(0, <[u8]>::len));
        let block = match self.block {
            Some((of, block)) if std::ptr::eq(of, batch) => block,
            _ => {
                let memory = Buffer::from(Bytes::from_owner(batch.memory_of_payloads()));
                self.block.insert((batch, self.views.append_block(memory))).1
            }
        };
        // A batch has at most 4 GiB.
        self.views.try_append_view(block, start as u32, len as u32)
    }
}

impl Column for Payloads {
    fn empty(_: &DataType) -> Self {
        Self { views: BinaryViewBuilder::new(), block: None }
    }

    fn take(&mut self) -> ArrayRef {
        self.block = None;
        Arc::new(self.views.finish())
    }
}

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

/// Columns that are built row by row, side by side.
pub(crate) trait Rows: Sized {
    /// For the next columns of a table's files.
    ///
    /// # Panics
    /// If they have other names.
    fn for_fields<'a>(fields: &mut impl Iterator<Item = &'a FieldRef>) -> Self;

    /// What was appended; the columns are empty after it.
    fn take(&mut self) -> Vec<ArrayRef>;

    /// For all columns of a table's files.
    ///
    /// # Panics
    /// If they have other names, or there are more.
    fn new(table: Table) -> Self {
        let mut fields = Layout::of(table).file.fields().iter();
        let rows = Self::for_fields(&mut fields);
        assert_eq!(fields.next(), None, "columns of {}", table.name());
        rows
    }
}

/// The columns of one and, where the table has further ones, those of the other.
impl<A: Rows, B: Rows> Rows for (A, Option<B>) {
    fn for_fields<'a>(fields: &mut impl Iterator<Item = &'a FieldRef>) -> Self {
        let first = A::for_fields(fields);
        let mut fields = fields.peekable();
        let more = fields.peek().is_some();
        (first, more.then(|| B::for_fields(&mut fields)))
    }

    fn take(&mut self) -> Vec<ArrayRef> {
        let mut columns = self.0.take();
        columns.extend(self.1.iter_mut().flat_map(Rows::take));
        columns
    }
}

/// A struct of columns, in the order of a table's.
macro_rules! rows {
    ($name:ident { $($column:ident: $builder:ty),* $(,)? }) => {
        struct $name {
            $($column: $builder,)*
        }

        impl $crate::columns::Rows for $name {
            fn for_fields<'a>(
                fields: &mut impl Iterator<Item = &'a deltalake::arrow::datatypes::FieldRef>,
            ) -> Self {
                Self {
                    $($column: {
                        let field = fields.next().expect("a field for each column");
                        assert_eq!(field.name(), stringify!($column).trim_start_matches("r#"));
                        $crate::columns::Column::empty(field.data_type())
                    },)*
                }
            }

            fn take(&mut self) -> Vec<deltalake::arrow::array::ArrayRef> {
                vec![$($crate::columns::Column::take(&mut self.$column)),*]
            }
        }
    };
}
pub(crate) use rows;
