//! Which log a path is about: each shard has the paths of its own log below `/<ledger id>/<month>/`, as in an exported
//! ledger, and those of the shard that is written stand at the root too.

use std::sync::Arc;

use mintage_ledger::{LedgerError, Log, TreeFile, TreePath};

use crate::desk::Desk;

/// A shard that can be read.
pub(super) struct Shard<'a> {
    desk: &'a Desk,
    log: Arc<Log>,
}

impl Shard<'_> {
    /// See [`TreePath::read`]; of a shard whose records were given up only the checkpoint is there.
    pub(super) fn read(&self, path: &TreePath) -> Result<Option<Vec<u8>>, LedgerError> {
        let Self { desk, log } = self;
        path.read(desk.shards.files(), log, &desk.trees)
    }
}

/// A path of the listener: a shard, if it names one, and the file below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// Ledger id and shard's name; `None` for the shard that is written.
    shard: Option<(String, String)>,
    /// The file.
    pub(super) file: TreePath,
}

impl Asked {
    /// Reads the path of a request, as it was sent: nothing in it is decoded or made shorter.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let path = path.strip_prefix('/')?;
        if let Some(file) = TreePath::parse(path) {
            return Some(Self { shard: None, file });
        }
        let (id, rest) = path.split_once('/')?;
        let (shard, below) = rest.split_once('/')?;
        // The policy is of the whole ledger.
        let file = TreePath::parse(below).filter(|path| path.file() != TreeFile::Policy)?;
        Some(Self {
            shard: Some((id.to_owned(), shard.to_owned())),
            file,
        })
    }

    /// The shard it is about, if there is one.
    pub(super) fn shard<'a>(&self, desk: &'a Desk) -> Option<Shard<'a>> {
        let log = match &self.shard {
            // The one whose tree grows: a log that has just begun is served once its tree has.
            None => Some(desk.trees.growing().0),
            Some((id, shard)) => {
                let is_named =
                    |log: &Arc<Log>| (log.origin().id(), log.origin().shard()) == (id.as_str(), shard.as_str());
                desk.shards.files().logs().into_iter().find(is_named)
            }
        };
        log.map(|log| Shard { desk, log })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_stands_at_the_root_or_below_its_shard_and_nowhere_else() {
        let shard = |path: &str| Asked::parse(path).map(|asked| asked.shard);
        let named = Some(("a1b2".to_owned(), "2025-12".to_owned()));
        assert_eq!(shard("/checkpoint"), Some(None));
        assert_eq!(shard("/tile/entries/x001/000.p/7"), Some(None));
        assert_eq!(shard("/a1b2/2025-12/checkpoint"), Some(named.clone()));
        assert_eq!(shard("/a1b2/2025-12/tile/0/000"), Some(named));
        for path in [
            "",
            "checkpoint",
            "//checkpoint",
            "/a1b2/checkpoint",
            "/a1b2/2025-12",
            "/a1b2/2025-12/",
            "/a1b2/2025-12//checkpoint",
            "/a1b2/2025-12/x/checkpoint",
            "/a1b2/2025-12/policy",
            "/a1b2/2025-12/../../policy",
            "/a1b2/2025-12/head/00000001.wal",
            "/%63heckpoint",
        ] {
            assert_eq!(shard(path), None, "{path}");
        }
    }
}
