//! Opening what `init` made: keys, ledger, state and everything that follows the ledger, in the order in which each
//! needs the former. `validate` does the part of it that changes nothing.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use mintage_identity::TrustDomain;
use mintage_ledger::{
    Committer, CommitterLimits, FileJournal, Follower, Hold, Integrator, Journal, LogKey, LogKeys, OpenOptions, Sealer,
    Search, Trees, current_log, wire::CaRole,
};
use mintage_mint::{CaKey, Issuer, KeyPolicy, KeyProtection};
use mintage_policy::Floor;
use mintage_revocation::{Delegation, RevocationKey};
use mintage_state::State;
use mintage_svid::CertInfo;
use mintage_sys::{dir::Dir, lock::Lock};
use tokio::sync::{Semaphore, watch};
use tracing::info;

use crate::{
    clock::ClockGuard,
    config::{ChainMode, Config},
    crls::{Crls, LastNumber, RootList},
    data_dir::{Authority, DataDir, INTERMEDIATE, ROOT},
    desk::Desk,
    error::CaError,
    fleet::Fleet,
    health::Health,
    index::Index,
    init::{Deps, check_not_development},
    jwt_keys::JwtKeys,
    keys::{self, KeyName, find_protection},
    limits::SIGNING_AHEAD,
    metrics::Metrics,
    publisher::Publisher,
    shards::Shards,
    witnessing::Standing,
};

/// The tree is cheaper in larger rounds; nobody waits for it but the next checkpoint.
const INTEGRATION_PACE: Duration = Duration::from_millis(20);

/// Everything that runs behind the desk; stopped in the reverse order of its start.
pub(crate) struct Engine {
    pub(crate) committer: Committer,
    pub(crate) search: Follower,
    pub(crate) integrator: Follower,
    pub(crate) sealer: Follower,
    pub(crate) _lock: Lock,
}

/// Keys in memory, each checked against what it must fit.
struct Keys {
    issuer: Issuer,
    /// The root's list of revoked CA certificates, where the root itself does not sign here.
    root_list: Option<RootList>,
    /// The number of the issuing key's last list.
    crl_number: LastNumber,
    log: LogKey,
    revocation: RevocationKey,
}

/// Checks a data directory as far as that is possible without changing it.
///
/// # Errors
/// What `serve` would refuse: a directory that is not safely ours, damaged facts, keys that do not open or do not fit.
pub fn check_data_dir(config: &Config) -> Result<(), CaError> {
    let data = DataDir::open(&config.data_dir)?;
    let authority = checked_authority(&data, config)?;
    load_keys(&data, &authority.trust_domain, config)?;
    Ok(())
}

fn checked_authority(data: &DataDir, config: &Config) -> Result<Authority, CaError> {
    let mut authority = data.authority()?;
    if let Some(wanted) = config
        .trust_domain
        .as_ref()
        .filter(|wanted| **wanted != authority.trust_domain)
    {
        let text = format!("was made for trust domain {}, not {wanted}", authority.trust_domain);
        return Err(data.problem(text));
    }
    if let Some(id) = config
        .audit
        .as_ref()
        .and_then(|audit| audit.auditors.outside(&authority.trust_domain))
    {
        let text = format!("issues no certificate of {id}, which audit.auditors names");
        return Err(data.problem(text));
    }
    if let Some(replica) = &config.replica {
        authority.replica = replica.clone();
    }
    Ok(authority)
}

fn load_keys(data: &DataDir, domain: &TrustDomain, config: &Config) -> Result<Keys, CaError> {
    let protection = find_protection(config.passphrase_file.as_deref(), domain)?;
    let dir: Dir = data.keys()?;
    let read = |name: KeyName, protection: &KeyProtection| keys::read(&dir, name, protection, domain);
    let root = data.certificate(ROOT)?;
    // The mark stands in the root's name; what it signed need not repeat it.
    let root_info = CertInfo::parse_signing(&root).map_err(|error| data.problem(format!("{ROOT}: {error}")))?;
    check_not_development(&root_info, domain, data)?;
    let root_list = match config.chain {
        ChainMode::Intermediate => RootList::read(data, &root_info)?,
        ChainMode::Root => None,
    };
    let (name, path) = match config.chain {
        ChainMode::Intermediate => (KeyName::Intermediate, vec![data.certificate(INTERMEDIATE)?, root]),
        ChainMode::Root => (KeyName::Root, vec![root]),
    };
    let issuer = Issuer::load(domain, CaKey::from_pkcs8(&read(name, &protection)?)?, path)?;
    check_not_development(issuer.info(), domain, data)?;
    let current = current_log(&data.ledger())?;
    let log = keys::read_log_key(&dir, current.origin(), &protection, domain)?;
    Ok(Keys {
        issuer,
        root_list,
        crl_number: LastNumber::read(data, config.data_dir.clone())?,
        log: LogKey::from_pkcs8(&log)?,
        revocation: RevocationKey::from_pkcs8(&read(KeyName::Revocation, &protection)?)?,
    })
}

/// Opens everything. Blocks while it reads; a state that was lost is rebuilt here.
pub(crate) fn open(
    config: &Config,
    deps: &Deps,
    metrics: Arc<Metrics>,
    health: Health,
) -> Result<(Desk, Engine), CaError> {
    let data = DataDir::open(&config.data_dir)?;
    let authority = checked_authority(&data, config)?;
    let lock = data.lock()?;
    let keys = load_keys(&data, &authority.trust_domain, config)?;
    let files = Arc::new(open_ledger(&data, &keys.log)?);
    let journal: Arc<dyn Journal> = files.clone();
    let trees = Trees::new(files.ledger(), journal.clone(), files.disk().clone());
    let log_keys = LogKeys::new(journal.log().origin(), keys.log);
    let state = Arc::new(State::open(&data.state(), &authority.trust_domain, journal.clone())?);
    let issuer = above_its_cut(keys.issuer, &state);
    let epoch = epoch_of(&data, &state, &keys.revocation)?;
    let (index, follower) = indexed(&files)?;
    let clock = ClockGuard::new(deps.clock.clone());
    let told = state.view();
    let set = told.revoked().clone();
    let now = clock.unguarded();
    let publisher = Publisher::new(keys.revocation, epoch, set, index.live_serials(now)?, now)?;
    let witnesses = Standing::new(config.witnesses.clone(), config.max_unwitnessed);
    let signer = (log_keys.clone(), config.checkpoint_interval, witnesses.hold().clone());
    let (integrator, signed) = integrate(journal.clone(), trees.clone(), signer)?;
    let sealer = seal(files.clone(), trees.clone())?;
    let places = (config.data_dir.clone(), config.passphrase_file.clone());
    let jwt_keys = JwtKeys::open(config, &authority.trust_domain)?;
    let shards = Shards::new(files, log_keys, places, config.shards);
    let (committer, commits) = Committer::start(journal.clone(), CommitterLimits::default())?;
    let desk = Desk {
        domain: authority.trust_domain,
        replica: authority.replica,
        clock,
        random_source: deps.random,
        journal,
        commits,
        trees,
        shards,
        signed,
        state,
        index,
        issuer,
        jwt_keys,
        key_policy: key_policy(config),
        current_policy: ArcSwap::from_pointee(config.policy),
        signing: Semaphore::new(SIGNING_AHEAD + std::thread::available_parallelism().map_or(2, usize::from)),
        in_flight: Default::default(),
        turns: Default::default(),
        releasing: Semaphore::new(1),
        denials: Default::default(),
        fleet: Fleet::new(metrics.clone(), told),
        publisher,
        watching: Default::default(),
        propagation: Default::default(),
        crls: Crls::new(config.crls, keys.root_list, keys.crl_number),
        record_streams: Default::default(),
        receipt_waits: Default::default(),
        seen: Default::default(),
        own_certificate: Default::default(),
        metrics,
        health,
        witnesses,
        uploaded: config.upload.as_ref().map(|_| Arc::default()),
        advertise: config.advertise.clone(),
    };
    let engine = Engine {
        committer,
        search: follower,
        integrator,
        sealer,
        _lock: lock,
    };
    Ok((desk, engine))
}

/// An issuer signs nothing that a rule on its own key has killed up to a cut.
fn above_its_cut(issuer: Issuer, state: &State) -> Issuer {
    match state.view().issuer_floor(&issuer.key_id()) {
        Floor::Above(cut) => issuer.above(cut),
        _ => issuer,
    }
}

/// Recovers the ledger, which must be the one that the key signs and at least as long as the state has seen it.
pub(crate) fn open_ledger(data: &DataDir, key: &LogKey) -> Result<FileJournal, CaError> {
    let options = OpenOptions {
        applied: State::seen(&data.state())?,
        ..OpenOptions::default()
    };
    let journal = FileJournal::open(&data.ledger(), options)?;
    let recovered = *journal.recovered();
    info!(
        records = recovered.size,
        clean_stop = recovered.clean_stop,
        cut = recovered.cut,
        "ledger open"
    );
    match journal.log().vkey().public_key() == &key.public_key() {
        true => Ok(journal),
        false => Err(data.problem("its log key is not the one of the ledger: the directory was put together from two")),
    }
}

/// Starts what grows the tree behind the journal and signs its checkpoints; how many records they cover can be followed.
fn integrate(
    journal: Arc<dyn Journal>,
    trees: Arc<Trees>,
    (keys, every, hold): (Arc<LogKeys>, Duration, Hold),
) -> Result<(Follower, watch::Receiver<u64>), CaError> {
    let integrator = Integrator::new(journal.clone(), trees, Some(keys), every)?.waiting_for(hold);
    let signed = integrator.signed();
    let sinks: Vec<Box<dyn mintage_ledger::Sink>> = vec![Box::new(integrator)];
    let follower = Follower::start("integrator", journal, sinks, INTEGRATION_PACE)?;
    Ok((follower, signed))
}

/// Starts what seals full segments of the log, and removes the write-ahead files they were in.
fn seal(journal: Arc<FileJournal>, trees: Arc<Trees>) -> Result<Follower, CaError> {
    let sealer = Sealer::new(journal.clone(), trees);
    Ok(Follower::start(
        "sealer",
        journal,
        vec![Box::new(sealer)],
        Sealer::PACE,
    )?)
}

/// Starts the index, which begins with what is sealed, and waits until it is whole.
fn indexed(files: &Arc<FileJournal>) -> Result<(Index, Follower), CaError> {
    let search = Search::over(files.segments().clone())?;
    let journal: Arc<dyn Journal> = files.clone();
    let follower = Follower::start("search", journal.clone(), vec![search.sink()], Duration::ZERO)?;
    let index = Index::new(search, journal.clone());
    wait_for_index(&index, &follower, journal.size())?;
    Ok((index, follower))
}

/// The index answers which serials live and which requests were answered: nothing is issued before it is whole.
fn wait_for_index(index: &Index, follower: &Follower, size: u64) -> Result<(), CaError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.map_err(|error| CaError::Tls(error.to_string()))?;
    if size > 0 && runtime.block_on(index.wait_applied(size - 1)).is_none() {
        let why = follower.trouble().unwrap_or_else(|| "the index stopped".to_owned());
        return Err(CaError::Poisoned(why));
    }
    Ok(())
}

/// The epoch in which the revocation key may sign, out of its recorded delegation.
fn epoch_of(data: &DataDir, state: &State, key: &RevocationKey) -> Result<u64, CaError> {
    let view = state.view();
    let own = view
        .ca_keys()
        .filter(|known| known.role == CaRole::Revocation && known.public_key == key.public_key());
    let statements = own.filter_map(|known| Delegation::decode(&known.statement).ok());
    let epoch = statements.map(|delegation| delegation.statement().epoch()).max();
    epoch.ok_or_else(|| data.problem("its revocation key is not the one that the ledger delegates to"))
}

fn key_policy(config: &Config) -> KeyPolicy {
    KeyPolicy {
        allow_rsa: config.policy.allow_rsa,
        strict_csr: config.strict_csr,
    }
}
