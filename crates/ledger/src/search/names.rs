//! Every name once, as a number.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;
use mintage_identity::IssuerKeyId;

/// Names as numbers; 0 is the absent name.
#[derive(Debug)]
pub(crate) struct Names {
    by_name: HashMap<Arc<str>, u32, RandomState>,
    names: Vec<Arc<str>>,
    issuers: Vec<IssuerKeyId>,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            by_name: HashMap::default(),
            names: vec![Arc::from("")],
            issuers: Vec::new(),
        }
    }
}

impl Names {
    /// The number of a name, which is made if there is none. Past four billion names all new ones are absent.
    pub(crate) fn intern(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        if let Some(number) = self.by_name.get(name) {
            return *number;
        }
        let Ok(number) = u32::try_from(self.names.len()) else {
            return 0;
        };
        let name: Arc<str> = Arc::from(name);
        self.names.push(Arc::clone(&name));
        self.by_name.insert(name, number);
        number
    }

    /// The number of a name that is in the index.
    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// The name of a number.
    pub(crate) fn name(&self, number: u32) -> Option<Arc<str>> {
        self.names.get(number as usize).filter(|name| !name.is_empty()).cloned()
    }

    /// Which numbers have a name that `wanted` accepts, as a table by number.
    pub(crate) fn matching(&self, wanted: impl Fn(&str) -> bool) -> Vec<bool> {
        self.names.iter().map(|name| !name.is_empty() && wanted(name)).collect()
    }

    /// The number of an issuer, from 1; 0 for none. Issuers are few: keys of this CA.
    pub(crate) fn intern_issuer(&mut self, id: &[u8]) -> u16 {
        let Ok(id) = IssuerKeyId::from_slice(id) else { return 0 };
        let known = self.issuers.iter().rposition(|issuer| *issuer == id);
        let at = known.unwrap_or_else(|| {
            self.issuers.push(id);
            self.issuers.len() - 1
        });
        u16::try_from(at + 1).unwrap_or(0)
    }

    pub(crate) fn find_issuer(&self, id: &IssuerKeyId) -> Option<u16> {
        let at = self.issuers.iter().rposition(|issuer| issuer == id)?;
        u16::try_from(at + 1).ok()
    }

    pub(crate) fn issuer(&self, number: u16) -> Option<IssuerKeyId> {
        self.issuers.get(usize::from(number).checked_sub(1)?).copied()
    }
}
