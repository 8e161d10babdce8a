//! Apache Parquet, which needs the feature `parquet`: the columns of the CSV form, times and numbers as such, and the whole
//! record as JSON in the last one.

use super::Encoder;
use crate::failure::Failure;

/// The format, where it was built in.
#[cfg(not(feature = "parquet"))]
pub(super) fn encoder() -> Result<Box<dyn Encoder>, Failure> {
    Err(Failure::local(
        "this program was built without parquet; build it with `cargo build --features parquet`, or use csv or jsonl",
    ))
}

/// The format.
#[cfg(feature = "parquet")]
pub(super) fn encoder() -> Result<Box<dyn Encoder>, Failure> {
    Ok(Box::new(written::Columns::new()?))
}

#[cfg(feature = "parquet")]
mod written {
    use std::sync::Arc;

    use parquet::{
        data_type::{ByteArray, ByteArrayType, DataType, Int64Type},
        errors::ParquetError,
        file::{
            properties::WriterProperties,
            writer::{SerializedFileWriter, SerializedRowGroupWriter},
        },
        schema::parser::parse_message_type,
    };

    use super::super::{Encoder, csv, jsonl::Jsonl};
    use crate::{audit::facts::Placed, failure::Failure};

    /// Rows of one group: at 2 KB each 16 MB in memory.
    const GROUP_ROWS: usize = 8_192;
    /// Columns that are no text, in front of those that are.
    const NUMBERS: [&str; 5] = ["index", "time", "not_before", "not_after", "instance"];

    /// The rows of a group that is not written yet, and the file so far.
    pub(super) struct Columns {
        writer: SerializedFileWriter<Vec<u8>>,
        /// Index and time, which every record has.
        sure: [Vec<i64>; 2],
        /// Start and end of a certificate's validity, and the agent's instance.
        maybe: [Vec<Option<i64>>; 3],
        texts: Vec<Vec<ByteArray>>,
    }

    /// The columns of the CSV form that are text, by their places.
    fn text_columns() -> impl Iterator<Item = (usize, &'static str)> {
        let columns = csv::COLUMNS.iter().copied().enumerate();
        columns.filter(|(_, name)| !NUMBERS.contains(name))
    }

    fn schema() -> String {
        let texts = text_columns().map(|(_, name)| name).chain(["record"]);
        let texts: String = texts.map(|name| format!("required binary {name} (UTF8);")).collect();
        format!(
            "message ledger {{ required int64 index; required int64 time (TIMESTAMP(MILLIS,true)); \
             optional int64 not_before (TIMESTAMP(MILLIS,true)); optional int64 not_after (TIMESTAMP(MILLIS,true)); \
             optional int64 instance; {texts} }}"
        )
    }

    fn failed(error: ParquetError) -> Failure {
        Failure::local(format!("parquet cannot be written: {error}"))
    }

    impl Columns {
        pub(super) fn new() -> Result<Self, Failure> {
            let schema = parse_message_type(&schema()).map_err(failed)?;
            let properties = Arc::new(WriterProperties::builder().build());
            let writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), properties).map_err(failed)?;
            Ok(Self {
                writer,
                sure: Default::default(),
                maybe: Default::default(),
                texts: vec![Vec::new(); text_columns().count() + 1],
            })
        }

        /// Writes what waits as a group of rows.
        fn flush(&mut self) -> Result<(), ParquetError> {
            let mut group = self.writer.next_row_group()?;
            for numbers in &mut self.sure {
                column::<Int64Type>(&mut group, numbers, None)?;
                numbers.clear();
            }
            for numbers in &mut self.maybe {
                let levels: Vec<i16> = numbers.iter().map(|number| i16::from(number.is_some())).collect();
                let there: Vec<i64> = numbers.drain(..).flatten().collect();
                column::<Int64Type>(&mut group, &there, Some(&levels))?;
            }
            for texts in &mut self.texts {
                column::<ByteArrayType>(&mut group, texts, None)?;
                texts.clear();
            }
            group.close()?;
            self.writer.flush()?;
            Ok(())
        }
    }

    fn column<T: DataType>(
        group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
        values: &[T::T],
        levels: Option<&[i16]>,
    ) -> Result<(), ParquetError> {
        let missing = || ParquetError::General("the schema has fewer columns".to_owned());
        let mut column = group.next_column()?.ok_or_else(missing)?;
        column.typed::<T>().write_batch(values, levels, None)?;
        column.close()
    }

    impl Encoder for Columns {
        fn record(&mut self, placed: &Placed, out: &mut Vec<u8>) -> Result<(), Failure> {
            let facts = placed.facts();
            let leaf = facts.leaf.as_ref();
            self.sure[0].push(i64::try_from(placed.index).unwrap_or(i64::MAX));
            self.sure[1].push(placed.time().millis());
            self.maybe[0].push(leaf.map(|leaf| leaf.not_before().millis()));
            self.maybe[1].push(leaf.map(|leaf| leaf.not_after().millis()));
            let instance = i64::try_from(facts.instance).unwrap_or(i64::MAX);
            self.maybe[2].push((!facts.agent.is_empty()).then_some(instance));
            let cells = csv::cells(placed);
            let cells = text_columns().map(|(place, _)| ByteArray::from(cells[place].as_str()));
            let mut record = Vec::new();
            Jsonl.record(placed, &mut record)?;
            let record = ByteArray::from(record.trim_ascii_end().to_vec());
            for (column, cell) in self.texts.iter_mut().zip(cells.chain([record])) {
                column.push(cell);
            }
            if self.sure[0].len() == GROUP_ROWS {
                self.flush().map_err(failed)?;
                out.append(self.writer.inner_mut());
            }
            Ok(())
        }

        fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Failure> {
            if !self.sure[0].is_empty() {
                self.flush().map_err(failed)?;
            }
            self.writer.finish().map_err(failed)?;
            out.append(self.writer.inner_mut());
            Ok(())
        }
    }

    #[cfg(test)]
    mod tests {
        use parquet::file::reader::{FileReader, SerializedFileReader};

        use super::*;
        use crate::{audit::facts::Placed, meaning::tests::kit::Story};

        #[test]
        fn what_is_written_is_read_again() {
            let story = Story::honest();
            let mut columns = Columns::new().unwrap();
            let mut out = Vec::new();
            for (index, record) in (0u64..).zip(&story.records) {
                let placed = Placed {
                    index,
                    leaf_hash: record.clone().encode().unwrap().leaf_hash(),
                    record: record.clone(),
                };
                columns.record(&placed, &mut out).unwrap();
            }
            columns.end(&mut out).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("records.parquet");
            std::fs::write(&path, out).unwrap();
            let reader = SerializedFileReader::new(std::fs::File::open(path).unwrap()).unwrap();
            let rows = reader.metadata().file_metadata().num_rows();
            assert_eq!(rows, story.records.len() as i64);
            for (index, row) in reader.get_row_iter(None).unwrap().enumerate() {
                let row = row.unwrap();
                let fields: Vec<(&String, String)> = row
                    .get_column_iter()
                    .map(|(name, field)| (name, field.to_string()))
                    .collect();
                assert_eq!(fields[0], (&"index".to_owned(), index.to_string()));
                let kind = fields.iter().find(|(name, _)| *name == "kind").unwrap();
                assert!(kind.1.contains(story.records[index].kind().name()), "{kind:?}");
            }
        }
    }
}
