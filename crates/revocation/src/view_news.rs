//! What a view strikes that an earlier one may not have, told by whoever sees both and no delta between: a reader of the map.

use mintage_identity::{IssuerKeyId, Serial};

use crate::{Added, EntryKey, MapReader, View, body::BodyIssuer, view_issuer::ViewIssuer};

impl View {
    /// What is new since `earlier` of the certificates under `keys`, and which rules. Of the keys all that are listed are
    /// told, new or not. `everything` where more than additions lies between.
    pub fn added_since(&self, earlier: &Self, keys: impl IntoIterator<Item = EntryKey>) -> Added {
        let rows = |view: &Self| view.issuers().iter().map(ViewIssuer::row).collect::<Vec<BodyIssuer>>();
        let exceptions = self.exceptions();
        // One that is an exception no longer is struck by what was there before.
        let all_stay = earlier
            .exceptions()
            .iter()
            .all(|held| exceptions.binary_search(held).is_ok());
        if self.epoch() != earlier.epoch() || rows(self) != rows(earlier) || !all_stay {
            return Added {
                everything: true,
                ..Added::default()
            };
        }
        let mut rules = self.rule_list();
        let held = earlier.rule_list();
        rules.retain(|rule| held.binary_search(rule).is_err());
        Added {
            everything: false,
            keys: keys.into_iter().filter(|key| self.lists_key(key)).collect(),
            rules,
        }
    }
}

impl MapReader {
    /// [`View::entry_key`] of the map as it is held now.
    pub fn key_of(&self, issuer: &IssuerKeyId, serial: &Serial) -> Option<EntryKey> {
        self.held().entry_key(issuer, serial)
    }
}
