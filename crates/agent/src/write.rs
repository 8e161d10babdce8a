//! Putting a verified pair in place: first into the agent's own directory, then, as one durable swap, into the folder.
//! Whatever fails, the generation that was in place stays. Runs on threads that may wait for a disk.

use std::sync::{Arc, Mutex, PoisonError};

use mintage_sys::swap::{Folder, FolderRules, GenerationFile};

use crate::{
    bundle::Bundle,
    config::Delivery,
    crls::Crls,
    federation::Foreign,
    held::Held,
    layout::{FederatedRoots, Material},
    receipt::{Proof, Receipt},
    store::Store,
};

/// Permission bits of a folder that the agent makes: owner and group may look into it.
const FOLDER_MODE: u32 = 0o750;
/// Permission bits of files without a key; the folder guards them.
const PUBLIC_MODE: u32 = 0o644;

/// A folder, once it was opened: later writes find out when another directory has taken its place.
#[derive(Clone, Default)]
pub(crate) struct SlotFolder(Arc<Mutex<Option<Folder>>>);

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
    pub(crate) store: Arc<Store>,
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
    /// The folder as it was first opened, or opened now.
    fn open(&self, delivery: &Delivery, trust_domain: &str) -> Result<Folder, String> {
        let mut opened = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = &*opened {
            return Ok(folder.clone());
        }
        let folder =
            Folder::open(delivery.directory(), rules(delivery, trust_domain)).map_err(|error| error.to_string())?;
        Ok(opened.insert(folder).clone())
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
    /// Writes; an error says which of the two places failed.
    pub(crate) fn run(&self) -> Result<(), (&'static str, String)> {
        self.store
            .save_delivery(&self.delivery, &self.held.to_pem())
            .map_err(|error| ("store", error.to_string()))?;
        self.swap().map_err(|problem| ("deliver", problem))?;
        self.keep_receipt();
        Ok(())
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

    fn swap(&self) -> Result<(), String> {
        let trust_domain = self.bundle.trust_domain().as_str();
        let folder = self.folder.open(&self.delivery, trust_domain)?;
        let crls = self.delivery.crl().then(|| self.crls.to_pem()).flatten();
        let federated = self.federated.iter().map(|foreign| FederatedRoots {
            trust_domain: foreign.domain().as_str(),
            roots: foreign.roots(),
        });
        let federated: Vec<FederatedRoots<'_>> = federated.collect();
        let files = self.delivery.layout().files(&Material {
            trust_domain,
            key: self.held.key(),
            chain: self.held.chain(),
            roots: self.bundle.roots(),
            federated: &federated,
            proof: self
                .proof
                .as_ref()
                .filter(|_| self.delivery.receipt())
                .map(Proof::octets),
            crls: crls.as_deref(),
            password: self.delivery.password(),
        })?;
        let generation: Vec<GenerationFile<'_>> = files
            .iter()
            .map(|file| GenerationFile {
                name: &file.name,
                bytes: &file.content,
                mode: if file.secret { self.delivery.mode() } else { PUBLIC_MODE },
                owner: Some(self.delivery.owner()),
                group: Some(self.delivery.group()),
            })
            .collect();
        let swapped = folder.swap(&generation).map_err(|error| error.to_string())?;
        for left in swapped.leftovers {
            tracing::warn!(
                directory = %self.delivery.directory().display(),
                problem = left,
                "something in the delivery folder could not be tidied up"
            );
        }
        Ok(())
    }
}
