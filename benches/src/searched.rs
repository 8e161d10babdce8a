//! A CA over a ledger of millions of records, in a process of its own: how long it takes to start, how long a page of a search
//! takes through its admin socket, and how much memory it has then.

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use mintage_ca::{Ca, Clock, SystemClock};
use mintage_identity::{Serial, UnixTime};
use mintage_ledger::{Body, FileJournal, LeafFacts, LogKey, LogKeys, OpenOptions, Record, current_log};
use mintage_mint::{KeyProtection, decode_key_file};
use mintage_proto::v1::{GetRecordRequest, Page, SearchRequest, get_record_request::Key, ledger_client::LedgerClient};
use mintage_tests::kit::{
    ca::{config, domain, make_with},
    client::admin,
    clock::Shifted,
};
use serde::{Deserialize, Serialize};
use tonic::transport::Channel;

use crate::{
    host::rss_mb,
    load::{Failure, percentile},
    records::{AGENTS, IDENTITIES, agent, identity, time_of},
};

/// Questions of each sort.
const QUESTIONS: u64 = 200;
/// Rows of a page.
const PAGE: u32 = 50;
/// Records at both ends that may be no issuances: what a CA writes as it is made and as it starts, its entries and agents.
const OTHERS: u64 = 8000;

/// What was measured of the CA.
#[derive(Debug, Serialize)]
pub struct Searched {
    search_records: u64,
    search_p50_ms: f64,
    search_p99_ms: f64,
    restart_ms: f64,
    search_rss_mb: f64,
}

/// What the CA's process says when it serves.
#[derive(Debug, Serialize, Deserialize)]
struct Serving {
    restart_ms: f64,
    socket: PathBuf,
    records: u64,
}

/// A clock by which it is now this time.
fn clock_at(time: UnixTime) -> Arc<Shifted> {
    Shifted::behind(SystemClock.now().since(time))
}

/// Makes a CA a minute before the first record; its ledger, which it does not serve, and the key of that.
///
/// # Errors
/// When the ledger cannot be opened or its key not read.
pub fn make(dir: &Path) -> Result<(Arc<FileJournal>, Arc<LogKeys>), Failure> {
    make_with(dir, &clock_at(time_of(0).minus(Duration::from_secs(60))).deps());
    let journal = Arc::new(FileJournal::open(&dir.join("ledger"), OpenOptions::default())?);
    let text = std::fs::read_to_string(dir.join("keys/log.key"))?;
    let key = decode_key_file(&text, &KeyProtection::ClearForTestDomainOnly, &domain())?;
    let keys = LogKeys::new(
        mintage_ledger::Journal::log(&*journal).origin(),
        LogKey::from_pkcs8(&key)?,
    );
    Ok((journal, keys))
}

/// Serves a CA's folder until standard input ends. By its clock every certificate in the ledger has ended.
///
/// # Errors
/// When the CA does not start.
pub fn serve(dir: &Path) -> Result<(), Failure> {
    let records = mintage_ledger::signed_records(&dir.join("ledger"))?;
    // The ledger has one log, as long as its checkpoint says.
    let first = current_log(&dir.join("ledger"))?.first();
    let clock = clock_at(time_of(records).plus(Duration::from_secs(3600)));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let started = Instant::now();
    let ca = runtime.block_on(Ca::start(config(dir), clock.deps()))?;
    let serving = Serving {
        restart_ms: started.elapsed().as_secs_f64() * 1e3,
        socket: ca.admin_socket().to_owned(),
        records: first + records,
    };
    println!("{}", serde_json::to_string(&serving)?);
    std::io::stdin().read_to_end(&mut Vec::new())?;
    runtime.block_on(ca.stop());
    Ok(())
}

/// The process of a CA, which ends with its standard input.
struct Process(Child);

impl Process {
    fn start(dir: &Path) -> Result<(Self, Serving), Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--serve")
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().ok_or("the CA has no output")?;
        let process = Self(child);
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        Ok((process, serde_json::from_str(&line)?))
    }

    fn end(mut self) -> Result<(), Failure> {
        drop(self.0.stdin.take());
        match self.0.wait()?.success() {
            true => Ok(()),
            false => Err("the CA did not end well".into()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended, or the bench ends with an error.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a CA over the folder in a process of its own, and asks it.
///
/// # Errors
/// When it does not start, refuses a question or finds nothing.
pub fn in_a_process(dir: &Path) -> Result<Searched, Failure> {
    // The first start builds the state's database; what is measured is the next.
    Process::start(dir)?.0.end()?;
    let (process, serving) = Process::start(dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut times = runtime.block_on(ask(&serving))?;
    let searched = Searched {
        search_records: serving.records,
        search_p50_ms: percentile(&mut times, 0.5),
        search_p99_ms: percentile(&mut times, 0.99),
        restart_ms: serving.restart_ms,
        search_rss_mb: rss_mb(process.0.id()),
    };
    process.end()?;
    Ok(searched)
}

/// The times of all questions, in milliseconds.
async fn ask(serving: &Serving) -> Result<Vec<f64>, Failure> {
    let mut ledger = LedgerClient::new(admin(&serving.socket).await?);
    let issuances = serving
        .records
        .checked_sub(2 * OTHERS)
        .filter(|count| *count > 0)
        .ok_or("a ledger of more records is needed")?;
    let mut times = Vec::new();
    for at in 0..QUESTIONS {
        let identity = SearchRequest {
            spiffe_id: identity(at * 31 % IDENTITIES),
            ..SearchRequest::default()
        };
        let agent = SearchRequest {
            agent: agent(at * 17 % AGENTS),
            ..SearchRequest::default()
        };
        // Spread over the log by a step that meets all of it.
        let index = OTHERS + at * 7_919_777 % issuances;
        let serial = SearchRequest {
            serial: serial_at(&mut ledger, index).await?.to_string(),
            ..SearchRequest::default()
        };
        for question in [identity, agent, serial] {
            times.push(page(&mut ledger, question).await?);
        }
    }
    Ok(times)
}

/// The time that the first page of an answer takes.
async fn page(ledger: &mut LedgerClient<Channel>, question: SearchRequest) -> Result<f64, Failure> {
    let question = SearchRequest {
        page: Some(Page {
            limit: PAGE,
            ..Page::default()
        }),
        ..question
    };
    let asked = format!("{question:?}");
    let started = Instant::now();
    let answer = ledger.search(question).await?.into_inner();
    let took = started.elapsed().as_secs_f64() * 1e3;
    match answer.records.is_empty() {
        true => Err(format!("nothing was found of {asked}").into()),
        false => Ok(took),
    }
}

async fn serial_at(ledger: &mut LedgerClient<Channel>, index: u64) -> Result<Serial, Failure> {
    let request = GetRecordRequest {
        key: Some(Key::Index(index)),
    };
    let record = ledger.get_record(request).await?.into_inner().record;
    let Body::Issue(issue) = Record::decode(&record)?.body else {
        return Err(format!("record {index} is no issuance").into());
    };
    let facts = LeafFacts::read(&issue.certificate_der).ok_or("a certificate cannot be read")?;
    Ok(facts.serial)
}
