//! A folder whose lists are too long, gone or spoilt: the pair is delivered all the same, and no list is lost in silence.

use std::{fs, path::PathBuf};

use super::*;
use crate::{
    crls::tests::{Ca, NOW, bundle, ca, list_of, new},
    held::tests::held_by,
};

struct Place {
    temp: tempfile::TempDir,
    ca: Ca,
    store: Arc<Store>,
    folder: SlotFolder,
}

impl Place {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(&temp.path().join("data")).unwrap();
        Self {
            store,
            temp,
            ca: ca("root"),
            folder: SlotFolder::default(),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.temp.path().join("web").join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap()
    }

    fn generation(&self) -> PathBuf {
        fs::read_link(self.file("..data")).unwrap()
    }

    fn lists(&self, number: u64, entries: u64) -> Arc<Crls> {
        let der = list_of(&self.ca, number, entries);
        Arc::new(new(Crls::default().with(&der, &bundle(&[&self.ca]), NOW)))
    }

    fn held(&self, serial: u64) -> Arc<Held> {
        held_by(&self.ca, serial, &[])
    }

    fn write(&self, held: &Arc<Held>, crls: &Arc<Crls>) -> Write {
        let delivery = Delivery::new("web".parse().unwrap(), self.temp.path().join("web")).unwrap();
        Write {
            delivery: delivery.with_crl(true),
            folder: self.folder.clone(),
            held: held.clone(),
            receipt: None,
            proof: None,
            bundle: Arc::new(bundle(&[&self.ca])),
            federated: Vec::new(),
            crls: crls.clone(),
            lists_alone: false,
            lists_bytes_max: CRLS_PEM_BYTES_MAX,
            store: self.store.clone(),
        }
    }
}

fn pem(crls: &Crls) -> String {
    crls.pem().unwrap().to_owned()
}

#[test]
fn lists_that_are_too_long_hold_no_pair_back_and_those_of_before_stay_beside_it() {
    let place = Place::new();
    let (short, long) = (place.lists(1, 1), place.lists(2, 100));
    let (first, second) = (place.held(1), place.held(2));
    let before = place.write(&first, &short).run().unwrap();
    assert_eq!(before.lists_kept_back, None);
    assert_eq!(place.text("svid_crl.pem"), pem(&short));

    let most = pem(&long).len() - 1;
    let narrow = |write: Write| Write {
        lists_bytes_max: most,
        ..write
    };
    let written = narrow(place.write(&second, &long)).run().unwrap();
    let told = written.lists_kept_back.unwrap();
    for part in [
        "svid_crl.pem",
        &format!("the limit is {most}"),
        "looked up",
        "each 60 s",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(
        place.text("svid.pem"),
        mintage_svid::pem::encode_certificates(second.chain())
    );
    assert_eq!(place.text("svid_crl.pem"), pem(&short));
    assert_eq!(
        written.content.lists, before.content.lists,
        "nothing that hooks would hurry for"
    );

    let generation = place.generation();
    let alone = Write {
        lists_alone: true,
        ..narrow(place.write(&second, &long))
    };
    assert_eq!(alone.run().unwrap_err(), (LISTS, told));
    assert_eq!(
        place.generation(),
        generation,
        "a try for the lists alone moves nothing else"
    );

    let exact = Write {
        lists_bytes_max: most + 1,
        ..alone
    };
    let written = exact.run().unwrap();
    assert_eq!(
        (written.lists_kept_back, place.text("svid_crl.pem")),
        (None, pem(&long))
    );
    assert_ne!(written.content.lists, before.content.lists);
}

#[test]
fn a_first_pair_is_delivered_without_lists_that_are_too_long_and_that_is_told() {
    let place = Place::new();
    let write = Write {
        lists_bytes_max: 1,
        ..place.write(&place.held(1), &place.lists(1, 1))
    };
    assert!(write.run().unwrap().lists_kept_back.is_some());
    assert!(place.file("svid.pem").exists() && !place.file("svid_crl.pem").exists());
}

#[test]
fn delivered_lists_stay_while_none_are_in_force_and_go_with_the_wish_for_them() {
    let place = Place::new();
    let lists = place.lists(1, 1);
    place.write(&place.held(1), &lists).run().unwrap();
    let written = place.write(&place.held(2), &Arc::default()).run().unwrap();
    assert_eq!(written.lists_kept_back, None);
    assert_eq!(place.text("svid_crl.pem"), pem(&lists));
    let mut without = place.write(&place.held(3), &Arc::default());
    without.delivery = without.delivery.with_crl(false);
    without.run().unwrap();
    assert!(!place.file("svid_crl.pem").exists());
}

#[test]
fn what_is_no_list_any_more_is_not_handed_on_and_not_dropped_in_silence_either() {
    let place = Place::new();
    let (lists, none) = (place.lists(1, 1), Arc::default());
    place.write(&place.held(1), &lists).run().unwrap();
    let generation = place.generation();
    for spoilt in [
        "root:x:0:0\n".to_owned(),
        String::new(),
        pem(&lists) + "root:x:0:0\n",
        pem(&lists).replace("X509 CRL", "PRIVATE KEY"),
    ] {
        fs::write(place.file("svid_crl.pem"), &spoilt).unwrap();
        let (stage, told) = place.write(&place.held(2), &none).run().unwrap_err();
        assert_eq!(stage, "deliver");
        assert!(told.contains("svid_crl.pem is no list"), "{told}");
        assert_eq!(place.generation(), generation);
    }
    place.write(&place.held(2), &lists).run().unwrap();
    assert_eq!(place.text("svid_crl.pem"), pem(&lists));
}
