//! Putting a verified pair in place: first into the agent's own directory, then, as one durable swap, into the folder.
//! Whatever fails, the generation that was in place stays. Lists of revoked certificates that cannot be put there hold no pair
//! back: then those of before lie beside it. Runs on threads that may wait for a disk.

use std::{
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    sync::{Arc, Mutex, PoisonError},
};

use mintage_svid::pem::Label;
use mintage_sys::swap::{Folder, FolderRules, GenerationFile};

use crate::{
    bundle::Bundle,
    config::Delivery,
    crls::Crls,
    federation::Foreign,
    held::Held,
    hook::Content,
    layout::{FederatedRoots, LayoutFile, Material},
    limits::{CRLS_PEM_BYTES_MAX, LISTS_PLACE_AGAIN_AFTER},
    receipt::{Proof, Receipt},
    store::Store,
};

/// Permission bits of a folder that the agent makes: owner and group may look into it.
const FOLDER_MODE: u32 = 0o750;
/// Permission bits of files without a key; the folder guards them.
const PUBLIC_MODE: u32 = 0o644;

/// Stage of lists of revoked certificates that could not be put beside a pair.
pub(crate) const LISTS: &str = "lists";

/// A folder, once it was opened: later writes find out when another directory has taken its place.
#[derive(Clone, Default)]
pub(crate) struct SlotFolder(Arc<Mutex<Option<Opened>>>);

struct Opened {
    folder: Folder,
    /// Device and inode of the directory that it lies in.
    parent: Option<(u64, u64)>,
}

impl Opened {
    fn open(delivery: &Delivery, trust_domain: &str) -> Result<Self, String> {
        // Looked at first: should another one take its place meanwhile, the folder is not made anew in that.
        let parent = parent_of(delivery);
        let folder = Folder::open(delivery.directory(), rules(delivery, trust_domain));
        let folder = folder.map_err(|error| error.to_string())?;
        Ok(Self { folder, parent })
    }
}

/// Which directory a delivery's folder lies in now.
fn parent_of(delivery: &Delivery) -> Option<(u64, u64)> {
    let meta = std::fs::metadata(delivery.directory().parent()?).ok()?;
    Some((meta.dev(), meta.ino()))
}

/// Nothing is there any more, not even another thing.
fn is_gone(delivery: &Delivery) -> bool {
    let looked = std::fs::symlink_metadata(delivery.directory());
    looked.is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// What is written where.
pub(crate) struct Write {
    pub(crate) delivery: Delivery,
    pub(crate) folder: SlotFolder,
    pub(crate) held: Arc<Held>,
    /// Where the record of this very pair stands, and its proof.
    pub(crate) receipt: Option<Receipt>,
    pub(crate) proof: Option<Proof>,
    pub(crate) bundle: Arc<Bundle>,
    /// Of other trust domains, those that lie beside it.
    pub(crate) federated: Vec<Arc<Foreign>>,
    pub(crate) crls: Arc<Crls>,
    /// Nothing but the lists differs from what lies there: where they cannot be put, nothing is to be done.
    pub(crate) lists_alone: bool,
    /// Most bytes of the lists.
    pub(crate) lists_bytes_max: usize,
    pub(crate) store: Arc<Store>,
}

/// What lies in a folder after it was written.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) content: Content,
    /// Why the lists of revoked certificates are those of before, and not those in force.
    pub(crate) lists_kept_back: Option<String>,
}

/// Whose the folder of a delivery is.
pub(crate) fn rules(delivery: &Delivery, trust_domain: &str) -> FolderRules {
    FolderRules {
        tag: format!("{trust_domain}/{}", delivery.entry()),
        owner: Some(delivery.owner()),
        group: Some(delivery.group()),
        mode: FOLDER_MODE,
    }
}

impl SlotFolder {
    /// The folder as it was first opened, or opened now; one that was removed is made again.
    fn open(&self, delivery: &Delivery, trust_domain: &str) -> Result<Folder, String> {
        let mut opened = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = &*opened {
            if !is_gone(delivery) {
                return Ok(before.folder.clone());
            }
            if parent_of(delivery) != before.parent {
                return Err(format!(
                    "{}: is gone, and what it lay in is another directory than before (was a mount removed?); put it back, \
                     or SIGHUP the agent to begin anew there",
                    delivery.directory().display()
                ));
            }
            // Made anew where it was, by the rules of a start: nobody else's place is written to.
        }
        let anew = Opened::open(delivery, trust_domain)?;
        Ok(opened.insert(anew).folder.clone())
    }

    /// Takes away what was delivered.
    pub(crate) fn clear(&self, delivery: &Delivery, trust_domain: &str) -> Result<(), String> {
        let left = self
            .open(delivery, trust_domain)?
            .clear()
            .map_err(|error| error.to_string())?;
        match left.is_empty() {
            true => Ok(()),
            false => Err(left.join("; ")),
        }
    }
}

impl Write {
    /// Writes; what lies in the folder then. An error says at which stage it failed.
    pub(crate) fn run(&self) -> Result<Written, (&'static str, String)> {
        self.store
            .save_delivery(&self.delivery, &self.held.to_pem())
            .map_err(|error| ("store", error.to_string()))?;
        let written = self.swap()?;
        self.keep_receipt();
        Ok(written)
    }

    /// After the swap, so that no delivery waits for it: what a crash loses here is the proof of one certificate.
    fn keep_receipt(&self) {
        let Some(receipt) = self.receipt.as_ref().filter(|_| self.delivery.receipt()) else {
            return;
        };
        let saved = self
            .store
            .save_receipt(&self.delivery, &self.held.chain()[0], receipt, self.proof.as_ref());
        if let Err(error) = saved {
            let directory = self.delivery.directory().display();
            tracing::warn!(%directory, %error, "the receipt could not be kept; after a restart its proof is not asked for");
        }
    }

    fn swap(&self) -> Result<Written, (&'static str, String)> {
        let deliver = |problem| ("deliver", problem);
        let folder = self.folder.open(&self.delivery, self.trust_domain()).map_err(deliver)?;
        let files = self.files().map_err(deliver)?;
        let in_force = self.crls.pem().filter(|_| self.delivery.crl());
        let problem = match in_force.map(|lists| self.put_with_lists(&folder, &files, lists)) {
            Some(Ok(content)) => return Ok(content.into()),
            Some(Err(problem)) => Some(kept_back(&problem)),
            None => None,
        };
        if let Some(problem) = problem.clone().filter(|_| self.lists_alone) {
            return Err((LISTS, problem));
        }
        // Without a list servers let in whom they refused: where those of before cannot be read, everything stays.
        let before = self.lists_before(&folder).map_err(deliver)?;
        let content = self.put(&folder, &files, before.as_deref()).map_err(deliver)?;
        Ok(Written {
            content,
            lists_kept_back: problem,
        })
    }

    fn trust_domain(&self) -> &str {
        self.bundle.trust_domain().as_str()
    }

    /// All files but the lists.
    fn files(&self) -> Result<Vec<LayoutFile>, String> {
        let federated = self.federated.iter().map(|foreign| FederatedRoots {
            trust_domain: foreign.domain().as_str(),
            roots: foreign.roots(),
        });
        let federated: Vec<FederatedRoots<'_>> = federated.collect();
        let proof = self.proof.as_ref().filter(|_| self.delivery.receipt());
        self.delivery.layout().files(&Material {
            trust_domain: self.trust_domain(),
            key: self.held.key(),
            chain: self.held.chain(),
            roots: self.bundle.roots(),
            federated: &federated,
            proof: proof.map(Proof::octets),
            password: self.delivery.password(),
        })
    }

    /// The lists that were delivered last, if there are any.
    fn lists_before(&self, folder: &Folder) -> Result<Option<String>, String> {
        if !self.delivery.crl() {
            return Ok(None);
        }
        let name = self.delivery.layout().crl_file();
        let current = folder.current().map_err(|error| error.to_string())?;
        let read = current
            .map(|current| current.read(name, CRLS_PEM_BYTES_MAX))
            .transpose();
        let Some(bytes) = read.map_err(|error| error.to_string())?.flatten() else {
            return Ok(None);
        };
        // The folder may be the workload's, which is given back nothing but lists.
        let text = std::str::from_utf8(&bytes).ok().filter(|text| is_lists(text));
        let text = text.ok_or_else(|| {
            let directory = self.delivery.directory().display();
            format!("{directory}: {name} is no list of revoked certificates any more; move the folder away")
        })?;
        Ok(Some(text.to_owned()))
    }

    fn put_with_lists(&self, folder: &Folder, files: &[LayoutFile], lists: &str) -> Result<Content, String> {
        let (bytes, most) = (lists.len(), self.lists_bytes_max);
        if bytes > most {
            let name = self.delivery.layout().crl_file();
            return Err(format!(
                "{name}: all lists have {bytes} bytes in PEM, the limit is {most}; they become shorter as what was revoked ends, \
                 and certificates can be looked up at the agent's socket meanwhile"
            ));
        }
        self.put(folder, files, Some(lists))
    }

    /// Makes these files, and these lists, the folder's generation.
    fn put(&self, folder: &Folder, files: &[LayoutFile], lists: Option<&str>) -> Result<Content, String> {
        let delivery = &self.delivery;
        let public = lists.map(|text| (delivery.layout().crl_file(), text.as_bytes(), PUBLIC_MODE));
        let own = files.iter().map(|file| {
            let mode = if file.secret { delivery.mode() } else { PUBLIC_MODE };
            (file.name.as_str(), file.content.as_slice(), mode)
        });
        let generation = own.chain(public).map(|(name, bytes, mode)| GenerationFile {
            name,
            bytes,
            mode,
            owner: Some(delivery.owner()),
            group: Some(delivery.group()),
        });
        let generation: Vec<GenerationFile<'_>> = generation.collect();
        let swapped = folder.swap(&generation).map_err(|error| error.to_string())?;
        for left in swapped.leftovers {
            tracing::warn!(
                directory = %delivery.directory().display(),
                problem = left,
                "something in the delivery folder could not be tidied up"
            );
        }
        let named: Vec<(&str, &[u8])> = generation.iter().map(|file| (file.name, file.bytes)).collect();
        Ok(Content::of(delivery, &named, lists))
    }
}

impl From<Content> for Written {
    fn from(content: Content) -> Self {
        Self {
            content,
            lists_kept_back: None,
        }
    }
}

/// What is told of lists that could not be put beside a pair.
fn kept_back(problem: &str) -> String {
    let seconds = LISTS_PLACE_AGAIN_AFTER.as_secs();
    format!(
        "{problem}; the lists that were delivered before, if any, stay beside the certificate, and what was revoked since is not \
         in them; tried again each {seconds} s"
    )
}

/// Whether a text has nothing in it but blocks of lists.
fn is_lists(text: &str) -> bool {
    let base64 = |line: &str| {
        line.bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='))
    };
    let boundary = |line: &str| {
        let dashed = line.strip_prefix("-----").and_then(|line| line.strip_suffix("-----"));
        dashed.is_some_and(|words| ["BEGIN X509 CRL", "END X509 CRL"].contains(&words))
    };
    Label::of(text) == Some(Label::Crl) && text.lines().all(|line| base64(line) || boundary(line))
}

#[cfg(test)]
#[path = "write_tests.rs"]
mod tests;
