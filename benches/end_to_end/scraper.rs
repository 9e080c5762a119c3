//! A scraper that costs little itself: one connection, one buffer.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::Outcome;

const PATIENCE: Duration = Duration::from_secs(60);

pub struct Scraper {
    address: SocketAddr,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

impl Scraper {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, stream: None, buffer: vec![0; 1 << 20] }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connects, waiting until somebody listens.
    pub fn connect(&mut self) -> Outcome<()> {
        let begin = Instant::now();
        loop {
            match TcpStream::connect(self.address) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    self.stream = Some(stream);
                    return Ok(());
                }
                Err(error) if begin.elapsed() > PATIENCE => return Err(error.into()),
                Err(_) => thread::sleep(Duration::from_micros(200)),
            }
        }
    }

    /// Asks once for the metrics. The body is in the buffer.
    pub fn scrape(&mut self, gzip: bool) -> Outcome<Response<'_>> {
        self.ask("/metrics", gzip)
    }

    /// Asks once. The body is in the buffer.
    pub fn ask(&mut self, path: &str, gzip: bool) -> Outcome<Response<'_>> {
        if self.stream.is_none() {
            self.connect()?;
        }
        let stream = self.stream.as_mut().ok_or("not connected")?;
        let encoding = if gzip { "Accept-Encoding: gzip\r\n" } else { "" };
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{encoding}\r\n", self.address);
        let begin = Instant::now();
        stream.write_all(request.as_bytes())?;
        let mut filled = 0;
        let (body_begin, length) = loop {
            filled += read(stream, &mut self.buffer[filled..])?;
            if let Some(end) = self.buffer[..filled].windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break (end + 4, content_length(&self.buffer[..end])?);
            }
        };
        if self.buffer.len() < body_begin + length {
            self.buffer.resize(body_begin + length, 0);
        }
        while filled < body_begin + length {
            filled += read(stream, &mut self.buffer[filled..])?;
        }
        let took = begin.elapsed();
        Ok(Response { took, body: &self.buffer[body_begin..body_begin + length] })
    }

    /// Milliseconds of one scrape.
    pub fn millis(&mut self, gzip: bool) -> Outcome<f64> {
        Ok(self.scrape(gzip)?.took.as_secs_f64() * 1e3)
    }
}

pub struct Response<'b> {
    pub took: Duration,
    pub body: &'b [u8],
}

impl Response<'_> {
    /// The value of the series that begins with `name`.
    pub fn value(&self, name: &str) -> Option<f64> {
        let text = std::str::from_utf8(self.body).ok()?;
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.rsplit(' ').next()?.parse().ok()
    }
}

fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> Outcome<usize> {
    match stream.read(buffer)? {
        // Within a response, or before it: the bridge closes a connection that is idle for 20 s.
        0 => Err("the server closed the connection".into()),
        bytes => Ok(bytes),
    }
}

fn content_length(head: &[u8]) -> Outcome<usize> {
    let head = std::str::from_utf8(head)?.to_ascii_lowercase();
    if !head.starts_with("http/1.1 200") {
        return Err(format!("not served: {head}").into());
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    Ok(length.ok_or("no Content-Length")?.trim().parse()?)
}
