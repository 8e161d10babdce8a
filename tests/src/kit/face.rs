//! The HTTP face of a CA or an agent: `/metrics`, `/live`, `/ready`.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The whole answer to a GET.
pub async fn get(face: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(face).await.expect("the face listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers in UTF-8");
    answer
}

/// The value of one metric line, by everything that stands before it; 0 where there is none yet.
pub async fn metric(face: SocketAddr, line: &str) -> u64 {
    let answer = get(face, "/metrics").await;
    let value = answer
        .lines()
        .find_map(|found| found.strip_prefix(line)?.trim().parse().ok());
    value.unwrap_or_default()
}
