//! Walks protobuf fields in place, without building messages: the index reads four fields of a record with forty.

/// One field's value, as far as the ledger's messages use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// A fixed-width value; no message of the ledger has one.
    Other,
}

/// The fields of one message, in the order they were written.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for (at, byte) in self.rest.iter().take(10).enumerate() {
            let low = u64::from(byte & 0x7f);
            if at == 9 && low > 1 {
                return None;
            }
            value |= low << (7 * at);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[at + 1..];
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let count = usize::try_from(count).ok()?;
        let (head, tail) = self.rest.split_at_checked(count)?;
        self.rest = tail;
        Some(head)
    }

    fn read(&mut self) -> Option<(u32, Value<'a>)> {
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3).ok()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(len)?)
            }
            5 => self.take(4).map(|_| Value::Other)?,
            _ => return None,
        };
        Some((tag, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u32, Value<'a>);

    /// The next field; `None` at the end and at the first malformed one, after which there is no next.
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_none() {
            self.rest = &[];
        }
        field
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn malformed_fields_end_the_walk() {
        for bad in [&[0x80][..], &[0x0a, 5, 1], &[0x0b], &[0xff; 11], &[0x08, 0x80]] {
            assert_eq!(Fields::new(bad).count(), 0, "{bad:?}");
        }
        let mut fields = Fields::new(&[0x08, 0x96, 0x01, 0x12, 2, 7, 8, 0x1d, 0, 0, 0, 0]);
        assert_eq!(fields.next(), Some((1, Value::Varint(150))));
        assert_eq!(fields.next(), Some((2, Value::Bytes(&[7, 8]))));
        assert_eq!(fields.next(), Some((3, Value::Other)));
        assert_eq!(fields.next(), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Fields::new(&bytes).count();
        }
    }
}
