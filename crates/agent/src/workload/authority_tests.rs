//! Blocks of real clients, pieces of any size, and octets of no meaning.

use proptest::prelude::*;
use tokio::io::AsyncReadExt;

use super::*;

/// The first request of RFC 7541, appendix C.4.1, whose authority is `www.example.com`.
const CODED: [u8; 17] = [
    0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
];

/// The code of letters that the tests need, by appendix B.
fn code(text: &str) -> Vec<u8> {
    let bits: String = text
        .chars()
        .map(|c| match c {
            'a' => "00011",
            'c' => "00100",
            'e' => "00101",
            'g' => "100110",
            'k' => "1110101",
            'm' => "101001",
            'n' => "101010",
            'o' => "00111",
            'p' => "101011",
            'r' => "101100",
            's' => "01000",
            't' => "01001",
            'u' => "101101",
            '2' => "00010",
            'F' => "1100011",
            'X' => "11111100",
            '.' => "010111",
            '%' => "010101",
            '/' => "011000",
            '-' => "010110",
            _ => panic!("{c} has no code here"),
        })
        .collect();
    let padded = format!("{bits}{}", "1".repeat((8 - bits.len() % 8) % 8));
    padded
        .as_bytes()
        .chunks(8)
        .map(|octet| octet.iter().fold(0, |value, bit| value << 1 | (bit - b'0')))
        .collect()
}

fn literal(first: u8, value: &[u8], huffman: bool) -> Vec<u8> {
    let len = u8::try_from(value.len()).unwrap() | if huffman { 0x80 } else { 0 };
    [&[first, len], value].concat()
}

fn frame(flags: u8, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[HEADERS, flags, 0, 0, 0, 1], payload].concat()
}

#[test]
fn the_path_of_a_socket_becomes_a_name_of_the_same_length() {
    for (sent, kept) in [
        ("%2Frun%2Fmintage.sock", "-2Frun-2Fmintage.sock"),
        ("/run/mintage/agent.sock", "-run-mintage-agent.sock"),
        ("X%XX//", "X-XX--"),
        ("agent.sock", "agent.sock"),
    ] {
        let sent: String = sent.replace(['i'], "e");
        let kept: String = kept.replace(['i'], "e");
        for first in [0x41, 0x01, 0x11] {
            let mut coded = [&[0x82], &literal(first, &code(&sent), true)[..], &[0x86]].concat();
            mend_block(&mut coded);
            assert_eq!(
                coded,
                [&[0x82], &literal(first, &code(&kept), true)[..], &[0x86]].concat(),
                "{sent}"
            );
            let mut plain = literal(first, sent.as_bytes(), false);
            mend_block(&mut plain);
            assert_eq!(plain, literal(first, kept.as_bytes(), false), "{sent}");
        }
    }
}

#[test]
fn nothing_else_is_touched() {
    let mut block = CODED;
    assert_eq!(mend_block(&mut block), Some(()));
    assert_eq!(block, CODED);
    let spelt = |value: &[u8]| [&[0x40, 10][..], b":authority", &[4], value].concat();
    let mut block = spelt(b"%2Fa");
    mend_block(&mut block);
    assert_eq!(block, spelt(b"-2Fa"));
    // `:path` has slashes that mean something, and so has a field with a name of its own.
    let path = literal(0x44, b"/a/b%20", false);
    let own = [&[0x40, 1][..], b"x", &[2], b"a/"].concat();
    let mut both = [path.clone(), own.clone()].concat();
    mend_block(&mut both);
    assert_eq!(both, [path, own].concat());
}

#[test]
fn padding_and_priority_are_stepped_over() {
    let (sent, kept) = (literal(0x41, b"/run", false), literal(0x41, b"-run", false));
    let padded = |block: &[u8]| [&[3][..], block, &[b'/'; 3]].concat();
    let with_priority = |block: &[u8]| [&[0x41, 1, b'/', 0, 9][..], block].concat();
    for (flags, wrap) in [
        (PADDED, &padded as &dyn Fn(&[u8]) -> Vec<u8>),
        (PRIORITY, &with_priority),
    ] {
        let mut payload = wrap(&sent);
        mend_frame(flags, &mut payload);
        assert_eq!(payload, wrap(&kept));
    }
    // More padding than there is.
    let mut payload = vec![200, 0x41, 1, b'/'];
    mend_frame(PADDED, &mut payload);
    assert_eq!(payload, [200, 0x41, 1, b'/']);
}

async fn through(sent: Vec<u8>, piece: usize) -> Vec<u8> {
    let (mut caller, stream) = tokio::io::duplex(piece);
    let writer = tokio::spawn(async move {
        tokio::io::AsyncWriteExt::write_all(&mut caller, &sent).await.unwrap();
    });
    let (mut mended, mut part) = (Vec::new(), vec![0; piece + 1]);
    let mut stream = Authorities::of(stream, || ());
    loop {
        let got = stream.read(&mut part).await.unwrap();
        if got == 0 {
            break;
        }
        mended.extend_from_slice(&part[..got]);
    }
    writer.await.unwrap();
    mended
}

#[tokio::test]
async fn frames_of_any_kind_pass_in_any_pieces() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let data = [&[0, 0, 4, 0, 0, 0, 0, 0, 1][..], b"/%/%"].concat();
    let empty = [0, 0, 0, 4, 1, 0, 0, 0, 0];
    let with = |authority: &[u8]| {
        let block = literal(0x41, authority, false);
        [&preface[..], &empty, &frame(4, &block), &data, &frame(4, &block), &data].concat()
    };
    for piece in [1, 2, 5, 64, 4096] {
        assert_eq!(through(with(b"/run%x"), piece).await, with(b"-run-x"), "{piece}");
    }
    // What breaks off is handed on as it is.
    let whole = with(b"/run%x");
    for cut in 0..whole.len() {
        assert_eq!(through(whole[..cut].to_vec(), 64).await.len(), cut);
    }
}

proptest! {
    #[test]
    fn hostile_octets_change_no_length_and_end_nothing(octets in prop::collection::vec(any::<u8>(), 0..2_000), flags: u8) {
        let mut payload = octets.clone();
        mend_frame(flags, &mut payload);
        prop_assert_eq!(payload.len(), octets.len());
        let mut coded = octets.clone();
        mend_coded(&mut coded);
        // Mending twice changes nothing more.
        let once = coded.clone();
        mend_coded(&mut coded);
        prop_assert_eq!(coded, once);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        prop_assert_eq!(runtime.block_on(through(octets.clone(), 512)).len(), octets.len());
    }
}
