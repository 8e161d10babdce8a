//! Workloads with `spiffe` and `spiffe-rustls`, unchanged: a server and a client that know nothing but the agent's socket, and
//! talk mutual TLS with what it gives them. Each prints what it sees, one line an event; the client acts on the words in its
//! input.

use std::{error::Error, sync::Arc};

use futures_util::StreamExt;
use spiffe::{TrustDomain, WorkloadApiClient, X509Source, X509Svid};
use spiffe_rustls::{authorizer, mtls_client, mtls_server};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, stdin},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

type Failed = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (socket, domain) = match words.as_slice() {
        [_, socket, domain, ..] => (format!("unix:{socket}"), TrustDomain::try_from(domain.as_str())?),
        _ => return Err("usage: serve <socket> <trust domain> | dial <socket> <trust domain> <address>".into()),
    };
    let source = X509Source::builder().endpoint(&socket).build().await?;
    tokio::spawn(follow(source.clone()));
    let api = WorkloadApiClient::connect_to(&socket).await?;
    tokio::spawn(watch(api.clone()));
    match words[0].as_str() {
        "serve" => serve(source, domain).await,
        _ => dial(words.get(3).ok_or("no address")?, source, domain, api).await,
    }
}

fn shown(svid: &X509Svid) -> String {
    format!("{}={}", svid.spiffe_id(), serial(svid.leaf().as_bytes()))
}

/// The serial in the DER of a certificate: the INTEGER after the version (RFC 5280, section 4.1).
fn serial(certificate: &[u8]) -> String {
    let at = |from: usize| {
        let long = usize::from(certificate[from + 1] & 0x7f);
        from + 2 + if certificate[from + 1] & 0x80 == 0 { 0 } else { long }
    };
    // Into the certificate, into what is signed, over the version of five octets.
    let number = at(at(0)) + 5;
    let octets = &certificate[number + 2..number + 2 + usize::from(certificate[number + 1])];
    let octets = octets.strip_prefix(&[0]).unwrap_or(octets);
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// What the source hands out, now and after each change.
async fn follow(source: X509Source) {
    let mut updates = source.updated();
    while let Ok(svid) = source.svid() {
        println!("source {}", shown(&svid));
        if updates.changed().await.is_err() {
            return;
        }
    }
}

/// The stream itself, which a source hides.
async fn watch(api: WorkloadApiClient) {
    let mut contexts = match api.stream_x509_contexts().await {
        Ok(contexts) => contexts,
        Err(error) => return println!("ended {error}"),
    };
    while let Some(heard) = contexts.next().await {
        match heard {
            Ok(context) => {
                let svids: Vec<String> = context.svids().iter().map(|svid| shown(svid)).collect();
                println!("set {}", svids.join(" "));
            }
            Err(error) => return println!("ended {error:?}"),
        }
    }
}

/// Answers each line of each connection with the serial of the certificate that was seen there.
async fn serve(source: X509Source, domain: TrustDomain) -> Result<(), Failed> {
    let config = mtls_server(source).authorize(authorizer::trust_domains([domain])?).build()?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            if let Err(error) = answer(acceptor, stream).await {
                println!("failed {error}");
            }
        });
    }
}

async fn answer(acceptor: TlsAcceptor, stream: TcpStream) -> Result<(), Failed> {
    let mut stream = BufReader::new(acceptor.accept(stream).await?);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        let seen = format!("{}\n", peer(stream.get_ref().get_ref().1)?);
        stream.get_mut().write_all(seen.as_bytes()).await?;
        stream.get_mut().flush().await?;
        line.clear();
    }
    Ok(())
}

fn peer(connection: &rustls::CommonState) -> Result<String, Failed> {
    let chain = connection.peer_certificates().ok_or("no certificate")?;
    Ok(serial(&chain[0]))
}

/// Opens a connection at the word `dial`, uses the first one again at the word `again`, and asks for a token at `jwt`.
async fn dial(address: &str, source: X509Source, domain: TrustDomain, api: WorkloadApiClient) -> Result<(), Failed> {
    let config = mtls_client(source).authorize(authorizer::trust_domains([domain])?).build()?;
    let connector = TlsConnector::from(Arc::new(config));
    let mut first = None;
    let mut words = BufReader::new(stdin()).lines();
    while let Some(line) = words.next_line().await? {
        let said = match line.split_once(' ').unwrap_or((&line, "")) {
            ("jwt", audience) => token(&api, audience).await,
            ("again", _) => exchange("again", first.as_mut().ok_or("there is no connection yet")?).await,
            _ => match connect(&connector, address).await {
                Ok(mut fresh) => {
                    let said = exchange("dial", &mut fresh).await;
                    first.get_or_insert(fresh);
                    said
                }
                Err(error) => Err(error),
            },
        };
        match said {
            Ok(said) => println!("{said}"),
            Err(error) => println!("failed {error:?}"),
        }
    }
    Ok(())
}

async fn connect(connector: &TlsConnector, address: &str) -> Result<BufReader<TlsStream<TcpStream>>, Failed> {
    let stream = TcpStream::connect(address).await?;
    let name = "localhost".try_into()?;
    Ok(BufReader::new(connector.connect(name, stream).await?))
}

/// The certificates of both sides, each as the other one saw it.
async fn exchange(word: &str, stream: &mut BufReader<TlsStream<TcpStream>>) -> Result<String, Failed> {
    stream.get_mut().write_all(b"whom do you see\n").await?;
    stream.get_mut().flush().await?;
    let mut seen = String::new();
    stream.read_line(&mut seen).await?;
    let server = peer(stream.get_ref().get_ref().1)?;
    Ok(format!("{word} client={} server={server}", seen.trim()))
}

/// A token, as the agent validates it for this workload.
async fn token(api: &WorkloadApiClient, audience: &str) -> Result<String, Failed> {
    let svid = api.fetch_jwt_svid([audience], None).await?;
    let valid = api.validate_jwt_token(audience, svid.token()).await?;
    Ok(format!("token {}={}", valid.spiffe_id(), svid.audience().join(",")))
}
