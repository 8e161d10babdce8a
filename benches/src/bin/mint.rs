//! What a certificate costs above its bare signature, in the mint alone: no wire, no ledger.
//!
//! CPU time of one thread, so that other programs on the machine do not count; medians of 21 rounds.

use std::{hint::black_box, process::ExitCode, time::Duration};

use clap::Parser;
use mintage_benches::load::Failure;
use mintage_identity::{ReplicaName, Serial, TrustDomain, Ttl, UnixTime};
use mintage_mint::{
    CaDates, CaKey, DELEGATION_LABEL, Issuer, MintError, ProvenKey, make_intermediate, make_root, prepare,
};
use mintage_policy::{Grant, NothingYet, grant_replica};
use serde::Serialize;

const ROUNDS: usize = 21;
const PER_ROUND: usize = 2000;
const NOW: UnixTime = UnixTime::from_seconds(1_795_467_600);

#[derive(Parser)]
struct Options {
    /// Output format; only json.
    #[arg(short, default_value = "json")]
    output: String,
}

#[derive(Serialize)]
struct Report {
    /// One P-256 signature over 400 bytes.
    sign_us: f64,
    /// Building a leaf, reading it back and comparing every field.
    prepare_us: f64,
    prepare_and_sign_us: f64,
    /// `prepare_and_sign_us` / `sign_us`.
    ratio_to_signature: f64,
}

fn main() -> ExitCode {
    Options::parse();
    match measure().and_then(|report| Ok(serde_json::to_string_pretty(&report)?)) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("mint: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<Report, Failure> {
    let domain = TrustDomain::parse("dev.test")?;
    let issuer = issuer(&domain)?;
    let key = ProvenKey::of_private_key(&CaKey::generate()?.1)?;
    let bare = CaKey::generate()?.0;
    let message = [DELEGATION_LABEL, &[7; 367]].concat();
    let mut rounds = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        let serial = |n: usize| Serial::from_random(((round * PER_ROUND + n) as u128).to_be_bytes());
        rounds[0].push(timed((0..PER_ROUND).collect(), |_| {
            black_box(bare.sign_delegation(black_box(&message)))
        })?);
        rounds[1].push(timed(inputs(&domain, &key)?, |(n, (grant, key))| {
            black_box(prepare(grant, key, serial(n), NOW, &issuer))
        })?);
        rounds[2].push(timed(inputs(&domain, &key)?, |(n, (grant, key))| {
            black_box(prepare(grant, key, serial(n), NOW, &issuer)?.sign(&issuer))
        })?);
    }
    let [sign_us, prepare_us, prepare_and_sign_us] = rounds.map(|mut series| {
        series.sort();
        series[ROUNDS / 2].as_secs_f64() * 1e6 / PER_ROUND as f64
    });
    Ok(Report {
        sign_us,
        prepare_us,
        prepare_and_sign_us,
        ratio_to_signature: prepare_and_sign_us / sign_us,
    })
}

fn issuer(domain: &TrustDomain) -> Result<Issuer, MintError> {
    let (root_key, key) = (CaKey::generate()?.0, CaKey::generate()?.0);
    let serial = Serial::from_random([1; 16]);
    let root_der = make_root(domain, &root_key, serial, CaDates::root(NOW))?;
    let root = Issuer::load(domain, root_key, vec![root_der.clone()])?;
    let der = make_intermediate(&root, &key, serial, CaDates::intermediate(NOW))?;
    Issuer::load(domain, key, vec![der, root_der])
}

type Input = (usize, (Grant, ProvenKey));

fn inputs(domain: &TrustDomain, key: &ProvenKey) -> Result<Vec<Input>, Failure> {
    let name = ReplicaName::parse("web-1")?;
    let input = |n| {
        Ok((
            n,
            (
                grant_replica(domain, &name, Ttl::DEFAULT, &NothingYet, NOW)?,
                key.clone(),
            ),
        ))
    };
    (0..PER_ROUND).map(input).collect()
}

fn timed<I, O>(inputs: Vec<I>, mut work: impl FnMut(I) -> Result<O, MintError>) -> Result<Duration, MintError> {
    let start = spent();
    for input in inputs {
        work(input)?;
    }
    Ok(spent() - start)
}

/// CPU time of this thread, which other programs on the machine do not lengthen.
fn spent() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split_whitespace().next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanos.unwrap_or_default())
}
