//! Just enough HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    /// A header's value; empty where it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(header, _)| header == name).map_or("", |(_, value)| value)
    }
}

/// Sends a request on a connection of its own, and reads the answer to its end.
pub(crate) fn get(address: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    try_get(address, path, headers).expect("a whole answer")
}

/// As [`get`]; `None` where the answer does not come, or not in full.
pub(crate) fn try_get(address: &str, path: &str, headers: &[(&str, &str)]) -> Option<Answer> {
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    send(address, &(request + "\r\n"))
}

/// Sends a request as it is; it says that the connection is to be closed.
pub(crate) fn send(address: &str, request: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).ok()?;
    // What refuses a long header may answer before it has read it all.
    let _ = stream.write_all(request.as_bytes());
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).expect("text");
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
    let headers: Vec<(String, String)> =
        lines.filter_map(|line| line.split_once(": ")).map(|(n, v)| (n.to_ascii_lowercase(), v.to_owned())).collect();
    let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let length = headers.iter().find(|(name, _)| name == "content-length").map(|(_, length)| length.parse());
    let whole =
        if chunked { body.ends_with("0\r\n\r\n") } else { length.is_none_or(|length| length == Ok(body.len())) };
    whole.then(|| Answer { status, body: if chunked { dechunk(body) } else { body.to_owned() }, headers })
}

fn dechunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("a length");
        whole.push_str(&rest[..length]);
        body = rest[length..].trim_start_matches("\r\n");
    }
    whole
}

/// A service that answers with the request, in two chunks, after a second where its path is `/slow`; its address.
pub(crate) fn upstream() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || answer(stream));
        }
    });
    address
}

fn answer(stream: TcpStream) {
    let mut reader = BufReader::new(&stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let lower = head.to_ascii_lowercase();
        if lower.contains("transfer-encoding: chunked") {
            while !head.ends_with("\r\n0\r\n\r\n") {
                if reader.read_line(&mut head).unwrap_or(0) == 0 {
                    return;
                }
            }
        }
        if lower.starts_with("get /slow ") {
            thread::sleep(Duration::from_secs(1));
        }
        let (first, second) = head.split_at(10);
        let answer = format!(
            "HTTP/1.1 200 OK\r\nX-Upstream: yes\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
            first.len(),
            second.len(),
        );
        let _ = (&stream).write_all(answer.as_bytes());
    }
}
