//! Parquet (apache/parquet-format), as the Hugging Face hub and pandas write it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use parquet::data_type::AsBytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::{Map, Number, Value};

use crate::data::row::{Row, RowPlace};
use crate::error::{Error, Result};

/// The first bytes of a file.
pub const MAGIC: &[u8] = b"PAR1";

/// Reads every record. Columns of bytes that are not text, such as images, are left out.
///
/// # Errors
/// A file that is damaged or cut short.
pub fn rows(bytes: Vec<u8>, path: &Arc<Path>) -> Result<Vec<Row>> {
    let damaged =
        |what: String| Error::damaged(&**path, format!("the parquet file is damaged or cut short: {what}"));
    // The reader of damaged pages may panic rather than fail.
    match catch_unwind(AssertUnwindSafe(|| records(bytes, path))) {
        Ok(read) => read.map_err(|error| damaged(error.to_string())),
        Err(_) => Err(damaged("a page cannot be decoded".into())),
    }
}

fn records(bytes: Vec<u8>, path: &Arc<Path>) -> Result<Vec<Row>, ParquetError> {
    let reader = SerializedFileReader::new(bytes::Bytes::from(bytes))?;
    let records = (1..).zip(reader.get_row_iter(None)?);
    let row = |(number, record): (usize, Result<parquet::record::Row, ParquetError>)| {
        Ok(Row::new(Arc::clone(path), RowPlace::Number(number), object(&record?)))
    };
    records.map(row).collect()
}

fn object(record: &parquet::record::Row) -> Map<String, Value> {
    let fields = record.get_column_iter();
    fields.filter_map(|(name, field)| Some((name.clone(), value(field)?))).collect()
}

/// A field as JSON; `None` for bytes that are not text.
fn value(field: &Field) -> Option<Value> {
    let float = |number: f64| Number::from_f64(number).map_or(Value::Null, Value::Number);
    Some(match field {
        Field::Null => Value::Null,
        Field::Bool(truth) => (*truth).into(),
        Field::Byte(number) => (*number).into(),
        Field::Short(number) => (*number).into(),
        Field::Int(number) | Field::Date(number) | Field::TimeMillis(number) => (*number).into(),
        Field::Long(number)
        | Field::TimeMicros(number)
        | Field::TimestampMillis(number)
        | Field::TimestampMicros(number) => (*number).into(),
        Field::UByte(number) => (*number).into(),
        Field::UShort(number) => (*number).into(),
        Field::UInt(number) => (*number).into(),
        Field::ULong(number) => (*number).into(),
        Field::Float16(number) => float(number.to_f64()),
        Field::Float(number) => float(f64::from(*number)),
        Field::Double(number) => float(*number),
        Field::Decimal(_) => Value::String(field.to_string()),
        Field::Str(text) => text.as_str().into(),
        Field::Bytes(bytes) => std::str::from_utf8(bytes.as_bytes()).ok()?.into(),
        Field::Group(record) => Value::Object(object(record)),
        Field::ListInternal(list) => list.elements().iter().filter_map(value).collect(),
        Field::MapInternal(map) => {
            let text =
                |key: &Field| value(key).map(|key| key.as_str().map_or(key.to_string(), str::to_owned));
            let entries = map.entries().iter();
            Value::Object(entries.filter_map(|(key, field)| Some((text(key)?, value(field)?))).collect())
        }
    })
}
