//! A reader of the CA's ledger over HTTPS, with nothing behind it but TLS: it sends what it is told and takes what comes.

use std::{fs, io, net::SocketAddr, path::Path, sync::Arc};

use mintage_ledger::{ForeignCheckpoint, SignedNote, TILE_WIDTH, tile_path};
use mintage_verifier::TlsSettings;
use rustls::{ClientConfig, pki_types::ServerName, time_provider::DefaultTimeProvider};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::client::{Joined, provider};

/// One connection that is kept open.
#[derive(Debug)]
pub struct Reader {
    stream: TlsStream<TcpStream>,
    /// What came behind the last answer.
    rest: Vec<u8>,
}

/// One answer.
#[derive(Debug)]
pub struct Answer {
    /// The status line's number.
    pub status: u16,
    /// Everything before the body.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// The TLS configuration of a reader with this identity.
pub fn tls(identity: &Joined) -> Arc<ClientConfig> {
    let http = [b"http/1.1".as_slice()];
    identity.tls_with(&TlsSettings::new(provider(), Arc::new(DefaultTimeProvider)).with_alpn(http))
}

impl Reader {
    /// Connects with this identity.
    ///
    /// # Errors
    /// What the network or TLS say; TLS 1.3 tells a refused certificate at the first answer.
    pub async fn open(address: SocketAddr, identity: &Joined) -> io::Result<Self> {
        Self::open_with(address, tls(identity)).await
    }

    /// Connects with whatever configuration.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub async fn open_with(address: SocketAddr, tls: Arc<ClientConfig>) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("mintage.invalid").expect("a valid name");
        let stream = TlsConnector::from(tls).connect(name, stream).await?;
        Ok(Self {
            stream,
            rest: Vec::new(),
        })
    }

    /// GET of a path.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.request("GET", path).await
    }

    /// A request without a body.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn request(&mut self, method: &str, path: &str) -> io::Result<Answer> {
        self.send(format!("{method} {path} HTTP/1.1\r\nhost: ca\r\n\r\n").as_bytes())
            .await?;
        self.answer(method != "HEAD").await
    }

    /// Sends octets as they are.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn send(&mut self, octets: &[u8]) -> io::Result<()> {
        self.stream.write_all(octets).await?;
        self.stream.flush().await
    }

    /// The next answer, whose head tells its length.
    ///
    /// # Errors
    /// The connection ended before it was whole.
    pub async fn answer(&mut self, with_body: bool) -> io::Result<Answer> {
        let end = loop {
            if let Some(at) = self.rest.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await?;
        };
        let head = String::from_utf8(self.rest.drain(..end).collect()).expect("a head is text");
        let mut answer = Answer {
            status: head
                .split(' ')
                .nth(1)
                .and_then(|word| word.parse().ok())
                .expect("a status"),
            head,
            body: Vec::new(),
        };
        let length = answer
            .header("content-length")
            .map_or(0, |text| text.parse().expect("a length"));
        if with_body {
            while self.rest.len() < length {
                self.more().await?;
            }
            answer.body = self.rest.drain(..length).collect();
        }
        Ok(answer)
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.rest).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Copies a whole log as it is signed now, file by file, into a folder; the size that was signed.
    ///
    /// # Errors
    /// The connection ended.
    ///
    /// # Panics
    /// When a file that the checkpoint covers is not given out.
    pub async fn mirror(&mut self, prefix: &str, dir: &Path) -> io::Result<u64> {
        let checkpoint = self.file(prefix, "checkpoint", dir).await?;
        let note = SignedNote::parse(&checkpoint).expect("a signed note");
        let size = ForeignCheckpoint::parse(note.text()).expect("a checkpoint").size();
        let width = TILE_WIDTH as u64;
        for (level, hashes) in (0..).zip(std::iter::successors(Some(size), |hashes| {
            Some(hashes / width).filter(|above| *above > 0)
        })) {
            for index in 0..hashes.div_ceil(width) {
                let mut path = tile_path(level, index);
                if index == hashes / width {
                    path.push_str(&format!(".p/{}", hashes % width));
                }
                self.file(prefix, &path, dir).await?;
                if level == 0 {
                    let path = path.replacen("tile/0/", "tile/entries/", 1);
                    self.file(prefix, &path, dir).await?;
                }
            }
        }
        Ok(size)
    }

    async fn file(&mut self, prefix: &str, path: &str, dir: &Path) -> io::Result<Vec<u8>> {
        let answer = self.get(&format!("{prefix}/{path}")).await?;
        assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
        let file = dir.join(path);
        fs::create_dir_all(file.parent().expect("a file has a folder"))?;
        fs::write(file, &answer.body)?;
        Ok(answer.body)
    }
}
