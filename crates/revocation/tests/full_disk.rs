//! A disk that is full when the map must grow: the old map stays whole and readable, the error says what to do, and the next
//! publication after room was made reaches every reader.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

#[path = "../../../tests/src/kit/missing.rs"]
mod missing;
mod publisher;

use std::{fs, io, io::Write, path::PathBuf, process::Command};

use mintage_revocation::{MapOwner, MapReader, MapWriter, RevocationError, Verdict};
use missing::missing;
use publisher::{BY_SERIAL, Cert, Publisher, domain, seconds};

/// A disk of 256 KiB, unmounted when this ends.
struct Disk(PathBuf);

impl Disk {
    /// `None`, with the reason told, where this process may not mount.
    fn mount(at: PathBuf) -> Option<Self> {
        fs::create_dir(&at).unwrap();
        let options = ["-t", "tmpfs", "-o", "size=256k,mode=755", "tmpfs"];
        let mounted = Command::new("mount").args(options).arg(&at).output();
        if mounted.as_ref().is_ok_and(|output| output.status.success()) {
            return Some(Self(at));
        }
        missing("a small disk", &format!("none can be mounted here: {mounted:?}"))
    }

    /// Takes all the room there is.
    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("filler")).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_full_disk_leaves_the_old_map_whole_and_says_how_much_to_free() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(dir.path().join("run")) else {
        return;
    };
    let path = disk.0.join("revocation.map");
    let mut publisher = Publisher::new();
    let certs: Vec<Cert> = (0..2_000).map(Cert::new).collect();
    let (first, later) = certs.split_at(100);
    publisher.revoke(first.iter().map(Cert::revoked).collect(), Vec::new());
    let mut follower = publisher.current_follower();
    let mut writer = MapWriter::create(&path, &domain()).unwrap();
    writer.publish(&follower.view(), publisher.now).unwrap();
    let reader = MapReader::open(&path, &domain(), MapOwner::RootOrSelf).unwrap();
    let whole = fs::read(&path).unwrap();

    disk.fill();
    publisher.revoke(later.iter().map(Cert::revoked).collect(), Vec::new());
    publisher.bring_up(&mut follower);
    for _ in 0..2 {
        let error = writer.publish(&follower.view(), publisher.now).unwrap_err();
        let RevocationError::Io { source, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(source.kind(), io::ErrorKind::StorageFull, "{error}");
        let text = error.to_string();
        assert!(
            text.contains("revocation.map") && text.contains("; free ") && text.contains("stays as it is"),
            "{text}"
        );
    }
    assert_eq!(fs::read(&path).unwrap(), whole, "not an octet was changed");
    let names: Vec<_> = fs::read_dir(&disk.0)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        names.iter().all(|name| !name.to_string_lossy().ends_with(".new")),
        "{names:?}"
    );
    let again = MapReader::open(&path, &domain(), MapOwner::RootOrSelf).unwrap();
    for reader in [&reader, &again] {
        assert!(
            first
                .iter()
                .all(|cert| reader.check(&cert.query(), publisher.now) == BY_SERIAL)
        );
        // It says no more than it knows: what came later is not there, and soon it is stale.
        assert_eq!(reader.check(&later[0].query(), publisher.now), Verdict::Good);
        assert_eq!(
            reader.check(&later[0].query(), publisher.now.plus(seconds(60))),
            Verdict::Stale
        );
    }

    disk.make_room();
    writer.publish(&follower.view(), publisher.now).unwrap();
    for reader in [&reader, &again] {
        assert!(
            certs
                .iter()
                .all(|cert| reader.check(&cert.query(), publisher.now) == BY_SERIAL)
        );
    }
}
