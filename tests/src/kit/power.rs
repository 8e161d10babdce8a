//! A disk that loses power under a program of ours. Afterwards there is what the program had made durable, and of the
//! rest whatever chance spares.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use super::peers::peer;

/// The part that is preloaded into the program; it says what is kept and how.
const SHIM: &str = include_str!("../../shim/powercut.c");

/// A folder on such a disk. Each cut begins a new life in another folder.
#[derive(Debug)]
pub struct PowerDisk {
    folder: PathBuf,
    shim: PathBuf,
    lives: u32,
}

/// Where inodes of the life that ended are found, for what chance spares.
type Places = BTreeMap<u64, PathBuf>;

impl PowerDisk {
    /// An empty one inside `folder`; none where there is no C compiler, as [`peer`] tells.
    ///
    /// # Panics
    ///
    /// When the compiler refuses the shim.
    pub fn new(folder: &Path) -> Option<Self> {
        let compiler = peer("cc")?;
        // The shim compares paths, so there must be one alone.
        let folder = folder.canonicalize().expect("the folder is there");
        let (source, shim) = (folder.join("powercut.c"), folder.join("powercut.so"));
        fs::write(&source, SHIM).expect("written");
        let output = Command::new(compiler)
            .args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o"])
            .args([&shim, &source])
            .output()
            .expect("the compiler starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let new = Self { folder, shim, lives: 0 };
        new.begin();
        Some(new)
    }

    /// The folder on the disk, in this life.
    pub fn root(&self) -> PathBuf {
        self.folder.join(format!("life-{}", self.lives))
    }

    fn mirror(&self) -> PathBuf {
        self.folder.join(format!("mirror-{}", self.lives))
    }

    fn begin(&self) {
        fs::create_dir_all(self.root()).expect("a folder");
        fs::create_dir(self.mirror()).expect("a folder");
    }

    /// The environment of the program that writes to the disk; in one life one may follow another. What is there when the
    /// first one starts has survived.
    pub fn env(&self) -> [(&'static str, OsString); 4] {
        [
            ("POWERCUT_FAIL", self.failing().into()),
            ("LD_PRELOAD", self.shim.clone().into()),
            ("POWERCUT_ROOT", self.root().into()),
            ("POWERCUT_MIRROR", self.mirror().into()),
        ]
    }

    fn failing(&self) -> PathBuf {
        self.folder.join("failing")
    }

    /// From now on the disk answers EIO when a file is to be made durable whose path holds this.
    pub fn fail(&self, part: &str) {
        // Whole at once, since it is read at any moment.
        let new = self.failing().with_extension("new");
        fs::write(&new, part).expect("written");
        fs::rename(new, self.failing()).expect("renamed");
    }

    /// The disk works again.
    pub fn work(&self) {
        fs::remove_file(self.failing()).expect("it failed");
    }

    /// The power was cut, and comes back: [`PowerDisk::root`] is now another folder. For each folder's names and each
    /// file's content `spared` says whether the disk holds the last that was written, or the last that was made durable.
    /// The program has ended.
    pub fn cut(&mut self, mut spared: impl FnMut() -> bool) {
        let (mirror, old) = (self.mirror(), self.root());
        self.lives += 1;
        self.begin();
        // Killed before the shim had said where the disk is, it has written nothing.
        let root = fs::read_to_string(mirror.join("root")).unwrap_or_default();
        let Ok(root) = root.trim().parse() else { return };
        let mut places = Places::new();
        find(&old, &mut places);
        let restore = Restore {
            mirror: &mirror,
            places: &places,
        };
        restore.folder(root, &self.root(), &mut spared);
    }
}

fn find(path: &Path, places: &mut Places) {
    let meta = fs::symlink_metadata(path).expect("it is there");
    places.insert(meta.ino(), path.to_owned());
    if meta.is_dir() {
        for entry in fs::read_dir(path).expect("it lists") {
            find(&entry.expect("it lists").path(), places);
        }
    }
}

struct Restore<'a> {
    mirror: &'a Path,
    places: &'a Places,
}

/// A name in a folder.
struct Name {
    kind: char,
    mode: u32,
    inode: u64,
    name: String,
}

impl Restore<'_> {
    fn folder(&self, inode: u64, to: &Path, spared: &mut dyn FnMut() -> bool) {
        let names = match self.places.get(&inode) {
            Some(path) if spared() => names_now(path),
            _ => self.names_kept(inode),
        };
        for Name {
            kind,
            mode,
            inode,
            name,
        } in names
        {
            let path = to.join(name);
            match kind {
                'd' => {
                    fs::create_dir_all(&path).expect("a folder");
                    self.folder(inode, &path, spared);
                }
                'f' => {
                    let content = match self.places.get(&inode) {
                        Some(now) if spared() => fs::read(now).expect("it reads"),
                        // A file that was named and never synced is empty.
                        _ => fs::read(self.mirror.join(format!("file-{inode}"))).unwrap_or_default(),
                    };
                    fs::write(&path, content).expect("written");
                }
                // Sockets: nothing to survive.
                _ => continue,
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
        }
    }

    /// None for a folder that was never synced.
    fn names_kept(&self, inode: u64) -> Vec<Name> {
        let text = fs::read_to_string(self.mirror.join(format!("dir-{inode}"))).unwrap_or_default();
        let read = |line: &str| {
            let mut words = line.splitn(4, ' ');
            Some(Name {
                kind: words.next()?.parse().ok()?,
                mode: u32::from_str_radix(words.next()?, 8).ok()?,
                inode: words.next()?.parse().ok()?,
                name: words.next()?.to_owned(),
            })
        };
        text.lines()
            .map(|line| read(line).unwrap_or_else(|| panic!("not a name: {line}")))
            .collect()
    }
}

fn names_now(folder: &Path) -> Vec<Name> {
    let entries = fs::read_dir(folder).expect("it lists");
    entries
        .map(|entry| {
            let entry = entry.expect("it lists");
            let meta = fs::symlink_metadata(entry.path()).expect("it is there");
            Name {
                kind: match () {
                    () if meta.is_file() => 'f',
                    () if meta.is_dir() => 'd',
                    () => '-',
                },
                mode: meta.mode() & 0o7777,
                inode: meta.ino(),
                name: entry.file_name().into_string().expect("our names are UTF-8"),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    // The shell keeps the file it removes open: what `sync` keeps from being given to another file ends with that process.
    const PROGRAM: &str = "cd \"$POWERCUT_ROOT\"
        printf old > changed; printf durable > renamed; printf gone > removed
        mkdir synced lost; printf in > synced/in; printf in > lost/in
        sync changed renamed removed synced/in lost/in synced .
        printf new > changed; mv renamed moved; exec 9< removed; rm removed
        printf new > unsynced; printf empty > synced/empty
        sync synced; kill -9 $$";

    fn after_cut(spared: bool) -> Option<BTreeMap<String, String>> {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = PowerDisk::new(folder.path())?;
        let status = Command::new("sh")
            .args(["-c", PROGRAM])
            .envs(disk.env())
            .status()
            .unwrap();
        assert!(!status.success());
        disk.cut(|| spared);
        let mut places = Places::new();
        find(&disk.root(), &mut places);
        let below = |path: &Path| path.strip_prefix(disk.root()).unwrap().display().to_string();
        let files = places.values().filter(|path| path.is_file());
        Some(
            files
                .map(|path| (below(path), fs::read_to_string(path).unwrap()))
                .collect(),
        )
    }

    fn told(files: &[(&str, &str)]) -> Option<BTreeMap<String, String>> {
        let own = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        Some(files.iter().map(own).collect())
    }

    #[test]
    fn only_what_was_synced_survives() {
        let Some(found) = after_cut(false) else { return };
        let kept = [
            ("changed", "old"),
            ("removed", "gone"),
            ("renamed", "durable"),
            ("synced/empty", ""),
            ("synced/in", "in"),
        ];
        assert_eq!(Some(found), told(&kept));
    }

    #[test]
    fn chance_may_spare_the_rest() {
        let Some(found) = after_cut(true) else { return };
        let all = [
            ("changed", "new"),
            ("lost/in", "in"),
            ("moved", "durable"),
            ("synced/empty", "empty"),
            ("synced/in", "in"),
            ("unsynced", "new"),
        ];
        assert_eq!(Some(found), told(&all));
    }
}
