//! Bytes over a plain connection, for HTTP/1 and for what is no protocol at all.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use super::LIMIT;

/// A connection whose reads time out after [`LIMIT`].
pub fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// Reads until the other side closes, gracefully or by a reset.
///
/// # Panics
/// If it neither sends nor closes within [`LIMIT`].
pub fn read_until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the other side left the connection open: {error}"),
    }
    said
}

/// Status and body of a GET; `None` if nothing listens at `address` yet.
pub fn get_if_listening(address: &str, path: &str) -> Option<(u16, String)> {
    TcpStream::connect(address).ok()?;
    Some(get(address, path))
}

/// Status and body of a GET.
pub fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = connect(address);
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
    let said = String::from_utf8(read_until_closed(&mut stream)).unwrap();
    let _ = stream.shutdown(Shutdown::Both);
    let status = said.split(' ').nth(1).and_then(|code| code.parse().ok());
    let (_, body) = said.split_once("\r\n\r\n").unwrap_or_default();
    (status.unwrap_or_else(|| panic!("no HTTP/1: {said}")), body.to_owned())
}
