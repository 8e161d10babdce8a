//! Reads rows of a sealed segment's index: number by number where a few are wanted, each section once where many are.

use std::{cell::OnceCell, sync::Arc};

use mintage_identity::{IssuerKeyId, Serial};

use super::{
    column,
    index::{Part, SECTIONS, SealedIndex},
};
use crate::LedgerError;

/// From so many rows on a section is read whole: one read of up to a megabyte instead of one for each row.
const WHOLE_FROM: usize = 64;
/// From so many rows on a dictionary of names is, too: it may have as many texts as the segment has records.
const NAMES_FROM: usize = 1_024;

/// The columns of one segment, as long as one question is answered.
#[derive(Debug)]
pub(crate) struct Columns<'a> {
    index: &'a SealedIndex,
    /// Sections that were read whole.
    whole: Option<[OnceCell<Vec<u8>>; SECTIONS]>,
    /// Dictionaries that were.
    names: Option<[OnceCell<Vec<Arc<str>>>; SECTIONS]>,
}

impl<'a> Columns<'a> {
    /// Columns of which about so many rows will be read.
    pub(crate) fn for_rows(index: &'a SealedIndex, rows: usize) -> Self {
        Self {
            index,
            whole: (rows >= WHOLE_FROM).then(Default::default),
            names: (rows >= NAMES_FROM).then(Default::default),
        }
    }

    /// The number that a column holds at a place.
    pub(crate) fn number(&self, part: Part, at: u16) -> Result<u64, LedgerError> {
        let width = self.index.width(part);
        self.octets(part, u64::from(at) * width, width, column::get)
    }

    /// The value of a packed column at a place.
    pub(crate) fn value(&self, part: Part, at: u16) -> Result<i64, LedgerError> {
        Ok(self.index.above(part, self.number(part, at)?))
    }

    /// The instance of the agent that a record is by.
    pub(crate) fn instance(&self, at: u16) -> Result<u64, LedgerError> {
        self.entry(Part::Instances, at).map(u64::from_le_bytes)
    }

    /// The issuer; `None` for a record without a certificate.
    pub(crate) fn issuer(&self, at: u16) -> Result<Option<IssuerKeyId>, LedgerError> {
        let id: [u8; 32] = self.entry(Part::Issuers, at)?;
        Ok((id != [0; 32]).then(|| IssuerKeyId::new(id)))
    }

    /// The serial; `None` for a record without a certificate.
    pub(crate) fn serial(&self, at: u16) -> Result<Option<Serial>, LedgerError> {
        let width = self.index.width(Part::Serials);
        self.octets(Part::Serials, u64::from(at) * width, width, |octets| {
            let begin = octets.iter().position(|octet| *octet != 0)?;
            Serial::from_be_octets(&octets[begin..]).ok()
        })
    }

    /// The name in a column of names; `None` where the record has none.
    pub(crate) fn name(&self, part: Part, at: u16) -> Result<Option<Arc<str>>, LedgerError> {
        let number = self.number(part, at)? as u32;
        let Some(names) = self.names.as_ref().map(|names| &names[part as usize]) else {
            return Ok(self.index.name(part, number)?.map(Arc::from));
        };
        if names.get().is_none() {
            let read = self.index.names(part)?.into_iter().map(Arc::from);
            let _ = names.set(read.collect());
        }
        let names = names.get().map(Vec::as_slice).unwrap_or_default();
        // Zero is no name.
        let name = (number as usize).checked_sub(1).and_then(|at| names.get(at));
        Ok(name.cloned())
    }

    /// The value of `N` octets whose number in the dictionary a column holds at a place.
    fn entry<const N: usize>(&self, part: Part, at: u16) -> Result<[u8; N], LedgerError> {
        let from = self.number(part, at)?.saturating_mul(N as u64);
        let from = self.index.data_len(part).saturating_add(from);
        let found = self.octets(part, from, N as u64, |octets| octets.try_into().ok())?;
        found.ok_or_else(|| self.index.cut_short(part))
    }

    fn octets<T>(&self, part: Part, from: u64, len: u64, get: impl FnOnce(&[u8]) -> T) -> Result<T, LedgerError> {
        let Some(section) = self.whole.as_ref().map(|whole| &whole[part as usize]) else {
            return Ok(get(&self.index.read(part, from, len)?));
        };
        if section.get().is_none() {
            // Behind the numbers of a column of names lies its dictionary, which is none of these octets.
            let until = match part {
                Part::Identities | Part::Agents | Part::Entries => self.index.data_len(part),
                _ => self.index.section_len(part),
            };
            let _ = section.set(self.index.read(part, 0, until)?);
        }
        let section = section.get().map(Vec::as_slice).unwrap_or_default();
        let bounds = usize::try_from(from).ok().zip(usize::try_from(len).ok());
        let octets = bounds.and_then(|(from, len)| section.get(from..from.checked_add(len)?));
        octets.map(get).ok_or_else(|| self.index.cut_short(part))
    }
}
