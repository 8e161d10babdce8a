//! The writer of the node's map: the agent alone. A file is made whole, put in place by a rename and never shortened;
//! what fits is added in place, everything else makes a new file, and the old one is marked so that readers move on.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use mintage_identity::{IssuerKeyId, TrustDomain, UnixTime};
use mintage_sys::{SysError, dir::Dir, lock::Lock, map::WriteMap};

use crate::{
    RevocationError, TrustDomainHash, View,
    bucket::Bucket,
    header::sha256,
    limits::{FRESH_FOR, FUTURE_SKEW, MAP_BYTES_MAX},
    map_layout::{self as layout, Plan},
    segment::Segment,
};

/// Everyone on the node may read the map; it holds no secret.
const MODE: u32 = 0o644;

/// Writes the map of one trust domain.
pub struct MapWriter {
    dir: Dir,
    path: PathBuf,
    name: String,
    domain: TrustDomainHash,
    live: Option<Live>,
    /// What a writer before this one left in place, until this one puts its first file there.
    former: Option<Former>,
    _lock: Lock,
}

/// The file of a writer that is no more.
struct Former(WriteMap);

/// The file in place.
struct Live {
    map: WriteMap,
    view: Arc<View>,
    /// First word of each segment.
    slots: HashMap<(IssuerKeyId, Bucket), usize>,
}

impl MapWriter {
    /// A writer for the file at `path`; its directory must be there, the file is made by the first publication.
    ///
    /// # Errors
    /// When the directory cannot be opened, `path` names no file, or another process writes this map.
    pub fn create(path: &Path, domain: &TrustDomain) -> Result<Self, RevocationError> {
        let name = path.file_name().and_then(|name| name.to_str());
        let (Some(name), Some(parent)) = (name, path.parent()) else {
            let source = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(failed(path, "is no path of a file", source));
        };
        let parent = if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        };
        let dir = Dir::open(parent).map_err(|source| failed(parent, "open the directory", source))?;
        let lock = Lock::exclusive(&dir, &format!(".{name}.lock"));
        let lock = lock.map_err(|error| by_system(path, "be the writer of the map", error))?;
        let former = WriteMap::reopen(&dir, name, MAP_BYTES_MAX);
        let former = former.map_err(|error| by_system(path, "take over the map", error))?;
        let domain = TrustDomainHash::of(domain);
        Ok(Self {
            path: path.to_owned(),
            name: name.to_owned(),
            former: former.map(Former).filter(|former| former.is_map_of(domain)),
            domain,
            live: None,
            dir,
            _lock: lock,
        })
    }

    /// The map's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the map say what `view` says at `now`, and tells whether it does; cheap when only the heartbeat moved. A view
    /// without a filter is not written: readers keep what they have and see it grow old. Nor is one that is older than what
    /// a writer before this one left, as after a restart without the CA: what was revoked stays revoked.
    ///
    /// # Errors
    /// When a new file cannot be made: `StorageFull` for a full disk. The file in place stays as it is.
    pub fn publish(&mut self, view: &Arc<View>, now: UnixTime) -> Result<bool, RevocationError> {
        let Some(heartbeat) = view.last_heartbeat() else {
            return Ok(false);
        };
        let heartbeat = match &self.former {
            Some(former) if former.is_ahead_of(view, heartbeat, now) => return Ok(false),
            Some(former) => former.vouches_until(view, now).max(heartbeat),
            None => heartbeat,
        };
        let pulse = (heartbeat, now);
        match &mut self.live {
            Some(live) if Arc::ptr_eq(&live.view, view) => live.pulse(pulse, view.horizon()),
            Some(live) if live.takes(view) => live.extend(view, pulse),
            _ => self.replace(view, pulse)?,
        }
        Ok(true)
    }

    fn replace(&mut self, view: &Arc<View>, pulse: (UnixTime, UnixTime)) -> Result<(), RevocationError> {
        let plan = Plan::of(view)?;
        let fresh = format!(".{}.new", self.name);
        match self.dir.remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(&self.path, "remove what a crash left beside", error));
            }
            _ => {}
        }
        let in_place = |error: SysError| {
            let what = match error.is_out_of_space() {
                true => format!(
                    "make a new map beside it, so the one in place stays as it is and grows old; free {} bytes there",
                    8 * plan.words
                ),
                false => "make a new map".to_owned(),
            };
            by_system(&self.path, &what, error)
        };
        let map = WriteMap::create(&self.dir, &fresh, plan.words, MODE).map_err(in_place)?;
        let former = self
            .former
            .as_ref()
            .map_or(0, |former| former.number(layout::GENERATION));
        let generation = self.live.as_ref().map_or(former, Live::generation) + 1;
        let live = Live::fill(map, view, &plan, self.domain, generation);
        live.pulse(pulse, view.horizon());
        live.map.publish(&self.dir, &fresh, &self.name).map_err(in_place)?;
        if let Some(former) = self.live.replace(live) {
            former.store(layout::STATE, layout::SUPERSEDED);
        }
        if let Some(former) = self.former.take() {
            former.supersede();
        }
        Ok(())
    }
}

impl Former {
    fn number(&self, at: usize) -> u64 {
        self.0.as_words().get(at).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn is_map_of(&self, domain: TrustDomainHash) -> bool {
        let head = [layout::MAGIC, layout::VERSION, layout::WORDS].map(|at| self.number(at));
        let words = self.0.as_words();
        let found = words.iter().skip(layout::TRUST_DOMAIN).take(domain.0.len() / 8);
        let found: Vec<u8> = found
            .flat_map(|word| word.load(Ordering::Acquire).to_ne_bytes())
            .collect();
        head == [layout::MAGIC_VALUE, layout::VERSION_VALUE, words.len() as u64] && found == domain.0
    }

    /// `None` for one of the future: it was taken while the clock was ahead, and says nothing.
    fn heartbeat(&self, now: UnixTime) -> Option<UnixTime> {
        let heartbeat = UnixTime::from_millis(self.number(layout::HEARTBEAT) as i64);
        Some(heartbeat).filter(|heartbeat| !is_of_the_future(*heartbeat, now))
    }

    /// True when it knows more than `view`, which was last vouched for at `heartbeat`. A later word of the CA is believed
    /// whatever it says, because a CA may have been made anew; a fresh one where it cannot be known which is later.
    fn is_ahead_of(&self, view: &View, heartbeat: UnixTime, now: UnixTime) -> bool {
        let position = (self.number(layout::EPOCH), self.number(layout::SEQUENCE));
        let vouched = self.heartbeat(now).unwrap_or(now.minus(FRESH_FOR));
        position > (view.epoch(), view.sequence()) && vouched > heartbeat
    }

    /// When the CA last vouched for the set that `view` is, as far as this file knows.
    fn vouches_until(&self, view: &View, now: UnixTime) -> UnixTime {
        let is_the_same =
            (self.number(layout::EPOCH), self.number(layout::SEQUENCE)) == (view.epoch(), view.sequence());
        let vouched = self.heartbeat(now).filter(|_| is_the_same);
        vouched.unwrap_or(UnixTime::from_millis(i64::MIN))
    }

    /// Tells its readers that a newer file stands under the name.
    fn supersede(&self) {
        if let Some(state) = self.0.as_words().get(layout::STATE) {
            state.store(layout::SUPERSEDED, Ordering::Release);
        }
    }
}

impl Live {
    fn fill(map: WriteMap, view: &Arc<View>, plan: &Plan<'_>, domain: TrustDomainHash, generation: u64) -> Self {
        let slots = plan
            .slots
            .iter()
            .map(|slot| ((view.issuers()[slot.issuer].id, slot.bucket), slot.first_word));
        let live = Self {
            view: Arc::clone(view),
            slots: slots.collect(),
            map,
        };
        let numbers = [
            (layout::MAGIC, layout::MAGIC_VALUE),
            (layout::VERSION, layout::VERSION_VALUE),
            (layout::WORDS, plan.words as u64),
            (layout::DIRECTORY_AT, layout::HEADER_WORDS as u64),
            (layout::DIRECTORY_OCTETS, plan.directory.len() as u64),
            (layout::EPOCH, view.epoch()),
            (layout::SEQUENCE, view.sequence()),
            (layout::GENERATION, generation),
            (layout::STATE, layout::LIVE),
        ];
        numbers.into_iter().for_each(|(at, value)| live.store(at, value));
        live.store_octets(layout::DIRECTORY_SHA256, &sha256(&[&plan.directory]));
        live.store_octets(layout::TRUST_DOMAIN, &domain.0);
        live.store_octets(layout::HEADER_WORDS, &plan.directory);
        for slot in &plan.slots {
            slot.segment
                .store_into(live.words_from(slot.first_word, slot.segment.shape().words()));
        }
        live
    }

    /// True when the file can say what `view` says by additions to its segments alone.
    fn takes(&self, view: &View) -> bool {
        let continued = |issuer: IssuerKeyId| {
            move |(bucket, segment): &(Bucket, Segment)| {
                held(&self.view, issuer, *bucket).is_some_and(|held| segment.continues(held))
            }
        };
        let mut issuers = view.issuers().iter();
        view.same_tables(&self.view) && issuers.all(|issuer| issuer.segments().iter().all(continued(issuer.id)))
    }

    fn extend(&mut self, view: &Arc<View>, pulse: (UnixTime, UnixTime)) {
        for issuer in view.issuers() {
            for (bucket, segment) in issuer.segments() {
                let first = self.slots.get(&(issuer.id, *bucket));
                if let Some((&first, held)) = first.zip(held(&self.view, issuer.id, *bucket)) {
                    segment.store_since(held, self.words_from(first, segment.shape().words()));
                }
            }
        }
        self.view = Arc::clone(view);
        self.store(layout::SEQUENCE, view.sequence());
        self.store(layout::GENERATION, self.generation() + 1);
        self.pulse(pulse, view.horizon());
    }

    fn generation(&self) -> u64 {
        self.map
            .as_words()
            .get(layout::GENERATION)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Stores the heartbeat last: who sees it sees all that it vouches for. It never goes back, for what the file before this one
    /// said of the same set stands: but one that lies in the future at `now` gives way.
    fn pulse(&self, (heartbeat, now): (UnixTime, UnixTime), horizon: UnixTime) {
        let word = |at: usize| {
            self.map
                .as_words()
                .get(at)
                .map_or(0, |word| word.load(Ordering::Relaxed))
        };
        let held = UnixTime::from_millis(word(layout::HEARTBEAT) as i64);
        let heartbeat = match is_of_the_future(held, now) {
            true => heartbeat,
            false => heartbeat.max(held),
        };
        self.store(layout::HORIZON, horizon.millis() as u64);
        self.store(layout::HEARTBEAT, heartbeat.millis() as u64);
    }

    fn store(&self, at: usize, value: u64) {
        if let Some(word) = self.map.as_words().get(at) {
            word.store(value, Ordering::Release);
        }
    }

    fn store_octets(&self, at: usize, octets: &[u8]) {
        for (word, chunk) in octets.chunks(8).enumerate() {
            let mut value = [0; 8];
            value[..chunk.len()].copy_from_slice(chunk);
            self.store(at + word, u64::from_ne_bytes(value));
        }
    }

    fn words_from(&self, first: usize, len: usize) -> &[AtomicU64] {
        self.map.as_words().get(first..first + len).unwrap_or_default()
    }
}

/// True when clocks that are right cannot differ by so much.
fn is_of_the_future(heartbeat: UnixTime, now: UnixTime) -> bool {
    heartbeat > now.plus(FUTURE_SKEW)
}

/// The segment of `issuer` and `bucket` in `view`.
fn held(view: &View, issuer: IssuerKeyId, bucket: Bucket) -> Option<&Segment> {
    let issuer = view.issuers().iter().find(|held| held.id == issuer)?;
    issuer.segment_of(bucket)
}

impl std::fmt::Debug for MapWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MapWriter")
            .field("path", &self.path)
            .field("live", &self.live.is_some())
            .finish_non_exhaustive()
    }
}

fn by_system(path: &Path, what: &str, error: SysError) -> RevocationError {
    let kind = error.io_kind();
    failed(path, what, io::Error::new(kind, error))
}

fn failed(path: &Path, what: &str, source: io::Error) -> RevocationError {
    let what = format!("{}: cannot {what}", path.display());
    RevocationError::Io { what, source }
}
