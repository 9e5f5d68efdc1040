//! HTTP/2 written by hand, for what no client library would send.

/// The start of a client's connection: the preface, and a SETTINGS frame without settings.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Types of frames (RFC 9113, 6).
pub const DATA: u8 = 0x0;
pub const HEADERS: u8 = 0x1;
pub const RST_STREAM: u8 = 0x3;
pub const SETTINGS: u8 = 0x4;
pub const PING: u8 = 0x6;
pub const CONTINUATION: u8 = 0x9;
/// Flags of frames.
pub const END_STREAM: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;

/// The start of a client's connection that gives no stream a window for an answer.
pub fn preface_without_windows() -> Vec<u8> {
    const INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];
    let settings = [&INITIAL_WINDOW_SIZE[..], &0_u32.to_be_bytes()].concat();
    let magic = PREFACE.strip_suffix(&frame(SETTINGS, 0, 0, &[])[..]).expect("it ends with empty settings");
    [magic, &frame(SETTINGS, 0, 0, &settings)].concat()
}

/// The headers of a request, on this stream.
pub fn headers(flags: u8, stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, flags, stream, &grpc_headers(NOT_KEPT, path, b"localhost"))
}

/// HPACK's literal without indexing (RFC 7541, 6.2.2).
pub const NOT_KEPT: u8 = 0x00;
/// HPACK's literal with incremental indexing (6.2.1).
pub const KEPT: u8 = 0x40;

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The header block of a gRPC request, with only literals of this kind.
pub fn grpc_headers(literal: u8, path: &str, authority: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    let fields: [(&[u8], &[u8]); 6] = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.as_bytes()),
        (b":authority", authority),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ];
    for (name, value) in fields {
        block.push(literal);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text);
        }
    }
    block
}
