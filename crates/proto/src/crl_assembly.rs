//! Lists of revoked certificates out of the chunks in which they travel. Lengths are believed only as far as the limit.

use crate::v1::CrlChunk;

/// Puts the chunks of a list together again.
#[derive(Debug)]
pub struct CrlAssembly {
    bytes_max: usize,
    issuer: Vec<u8>,
    number: u64,
    total: u64,
    bytes: Vec<u8>,
}

impl CrlAssembly {
    /// One that takes lists of so many bytes at most.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            issuer: Vec::new(),
            number: 0,
            total: 0,
            bytes: Vec::new(),
        }
    }

    /// Takes the next chunk; the whole list after its last.
    ///
    /// # Errors
    /// Refuses chunks that do not follow one another, and lists above the limit; the field that is wrong is named. Nothing
    /// is taken after that until a chunk begins a list.
    pub fn add(&mut self, chunk: CrlChunk) -> Result<Option<Vec<u8>>, String> {
        if chunk.offset == 0 {
            *self = Self {
                bytes_max: self.bytes_max,
                issuer: chunk.issuer_key_id.clone(),
                number: chunk.number,
                total: chunk.total,
                bytes: Vec::new(),
            };
        }
        if let Err(problem) = self.check(&chunk) {
            *self = Self::new(self.bytes_max);
            return Err(problem);
        }
        self.bytes.extend_from_slice(&chunk.data);
        let is_whole = self.bytes.len() as u64 == self.total;
        Ok(is_whole.then(|| std::mem::replace(self, Self::new(self.bytes_max)).bytes))
    }

    fn check(&self, chunk: &CrlChunk) -> Result<(), String> {
        let have = self.bytes.len() as u64;
        if chunk.total > self.bytes_max as u64 {
            return Err(format!(
                "total is {}, the limit is {} bytes",
                chunk.total, self.bytes_max
            ));
        }
        if chunk.offset != have {
            return Err(format!("offset is {}, its chunks so far end at {have}", chunk.offset));
        }
        if chunk.issuer_key_id != self.issuer {
            return Err("issuer_key_id changes within a list".to_owned());
        }
        if chunk.number != self.number {
            return Err(format!(
                "number goes from {} to {} within a list",
                self.number, chunk.number
            ));
        }
        if chunk.total != self.total {
            return Err(format!(
                "total goes from {} to {} within a list",
                self.total, chunk.total
            ));
        }
        if chunk.data.is_empty() {
            return Err("data is empty".to_owned());
        }
        match have.saturating_add(chunk.data.len() as u64) {
            end if end > self.total => Err(format!("data goes to byte {end}, its total is {}", self.total)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 100;

    #[test]
    fn chunks_make_the_list_again_and_nothing_else() {
        let chunk = |offset: u64, data: &[u8]| CrlChunk {
            issuer_key_id: vec![1; 32],
            number: 5,
            offset,
            total: 6,
            data: data.to_vec(),
            is_last: false,
        };
        let mut parts = CrlAssembly::new(LIMIT);
        assert_eq!(parts.add(chunk(0, b"abc")), Ok(None));
        assert_eq!(parts.add(chunk(3, b"def")), Ok(Some(b"abcdef".to_vec())));
        let bent = |bend: fn(&mut CrlChunk)| {
            let mut bent = chunk(3, b"def");
            bend(&mut bent);
            bent
        };
        // What follows the first half, and the field that is told.
        let cases = [
            (bent(|chunk| chunk.offset = 2), "offset"),
            (bent(|chunk| chunk.offset = 4), "offset"),
            (bent(|chunk| chunk.offset = u64::MAX), "offset"),
            (bent(|chunk| chunk.number = 6), "number"),
            (bent(|chunk| chunk.issuer_key_id[0] = 2), "issuer_key_id"),
            (bent(|chunk| chunk.total = 7), "total"),
            (bent(|chunk| chunk.total = LIMIT as u64 + 1), "total"),
            (bent(|chunk| chunk.data.clear()), "data"),
            (bent(|chunk| chunk.data.push(0)), "data"),
        ];
        for (wrong, field) in cases {
            assert_eq!(parts.add(chunk(0, b"abc")), Ok(None));
            let told = parts.add(wrong).unwrap_err();
            assert!(told.starts_with(field), "{field}: {told}");
            // The rest of that list is none, and the next one begins anew.
            assert!(parts.add(chunk(3, b"def")).unwrap_err().starts_with("offset"));
            assert_eq!(parts.add(chunk(0, b"abc")), Ok(None));
            assert_eq!(parts.add(chunk(3, b"def")), Ok(Some(b"abcdef".to_vec())));
        }
        // Once more what was whole, and no beginning of one.
        assert!(parts.add(chunk(3, b"def")).unwrap_err().starts_with("offset"));
        let mut long = chunk(0, b"abc");
        long.total = LIMIT as u64 + 1;
        assert!(parts.add(long).unwrap_err().contains("limit"));
        assert!(parts.add(chunk(0, b"")).unwrap_err().starts_with("data"));
    }
}
