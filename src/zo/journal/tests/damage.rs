//! Damaged and forged journals: cuts, flipped bits, moved records, impossible contents.

use std::fs;

use super::*;

#[test]
fn a_cut_at_any_byte_leaves_an_exact_prefix_and_reports_the_torn_tail() {
    let (_folder, path) = written(4);
    let whole = fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        if cut < HEADER_BYTES {
            assert!(matches!(read(&path), Err(Error::Damaged { .. })), "cut at {cut}");
            assert!(matches!(Journal::open(&path, &header()), Err(Error::Damaged { .. })));
            assert_eq!(fs::read(&path).unwrap(), whole[..cut], "a refused journal is left alone");
            continue;
        }
        let kept = (cut - HEADER_BYTES) / SIZE;
        let bytes = cut - offset_of(kept);
        let expected_torn =
            (bytes > 0).then_some(TornTail { offset: offset_of(kept) as u64, bytes: bytes as u64 });
        let expected = (header(), records(kept as u64), expected_torn);
        assert_eq!(read(&path).unwrap(), expected, "cut at {cut}");
        assert_eq!(fs::read(&path).unwrap(), whole[..cut], "reading changes nothing");

        let (mut journal, found, torn) = Journal::open(&path, &header()).unwrap();
        assert_eq!((found, torn), (records(kept as u64), expected_torn), "cut at {cut}");
        assert_eq!(fs::read(&path).unwrap(), whole[..offset_of(kept)]);
        journal.append(&record(kept as u64)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), whole[..offset_of(kept + 1)]);
    }
}

#[test]
fn a_flipped_bit_never_gives_wrong_records() {
    let (_folder, path) = written(5);
    let whole = fs::read(&path).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match scan(&path, &flipped) {
            Ok(Scanned { header: found_header, records: found, torn, .. }) => {
                assert!(bit / 8 >= offset_of(4), "bit {bit} went unseen");
                assert_eq!((found_header, found), (header(), records(4)), "bit {bit}");
                assert_eq!(torn, Some(TornTail { offset: offset_of(4) as u64, bytes: SIZE as u64 }));
            }
            Err(refused) => {
                assert!(bit / 8 < offset_of(4), "bit {bit}: {refused}");
                if bit / 8 >= HEADER_BYTES {
                    let offset = offset_of((bit / 8 - HEADER_BYTES) / SIZE);
                    assert!(refused.to_string().contains(&format!("at byte {offset}:")), "{refused}");
                }
            }
        }
    }
}

#[test]
fn a_last_record_of_zeros_is_a_torn_tail() {
    let (_folder, path) = written(2);
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend([0; SIZE]);
    fs::write(&path, &bytes).unwrap();
    let (_, found, torn) = Journal::open(&path, &header()).unwrap();
    assert_eq!(found, records(2));
    assert_eq!(torn, Some(TornTail { offset: offset_of(2) as u64, bytes: SIZE as u64 }));
}

#[test]
fn damage_before_an_incomplete_record_is_refused() {
    let (_folder, path) = written(3);
    let mut bytes = fs::read(&path).unwrap();
    bytes[offset_of(1) + 30] ^= 1;
    bytes.truncate(offset_of(2) + 5);
    fs::write(&path, &bytes).unwrap();
    let refused = Journal::open(&path, &header()).unwrap_err();
    assert!(refused.to_string().contains(&format!("record 1 at byte {}", offset_of(1))), "{refused}");
    assert_eq!(fs::read(&path).unwrap(), bytes, "a refused journal is left alone");
}

#[test]
fn records_cannot_be_swapped_duplicated_removed_or_moved_between_journals() {
    let (_folder, path) = written(4);
    let whole = fs::read(&path).unwrap();
    let part = |i: usize| &whole[offset_of(i)..offset_of(i + 1)];
    let head = &whole[..HEADER_BYTES];
    let swapped = [head, part(0), part(2), part(1), part(3)].concat();
    let duplicated = [head, part(0), part(1), part(1), part(2), part(3)].concat();
    let removed = [head, part(0), part(2), part(3)].concat();
    let other_header = JournalHeader { data: [5; 32], ..header() }.encode().0;
    let moved = [&other_header[..], part(0), part(1)].concat();
    for attack in [swapped, duplicated, removed, moved] {
        assert!(matches!(scan(&path, &attack), Err(Error::Damaged { .. })));
    }
}

#[test]
fn impossible_records_are_refused_despite_valid_checksums() {
    let (header_bytes, crc) = header().encode();
    let mut gap = record(5);
    let mut precise = record(1);
    probes(&mut precise)[0].coefficient = 0.1;
    let mut infinite = record(1);
    probes(&mut infinite)[1].coefficient = f32::INFINITY;
    let mut moving = record(1);
    moving.skipped = true;
    gap.data_cursor = 0;
    for (bad, why) in
        [(gap, "consecutive"), (precise, "significant"), (infinite, "finite"), (moving, "skipped")]
    {
        let bytes = [&header_bytes[..], &record(0).encode(crc, 0), &bad.encode(crc, 1)].concat();
        let refused = refusal(&bytes);
        assert!(refused.contains(why) && refused.contains("record 1 at byte 236"), "{refused}");

        let (_folder, path) = written(1);
        let (mut journal, ..) = Journal::open(&path, &header()).unwrap();
        assert!(journal.append(&bad).unwrap_err().to_string().contains(why));
        journal.append(&record(1)).unwrap();
        assert_eq!(read(&path).unwrap().1, records(2));
    }
}

#[test]
fn hostile_headers_are_refused() {
    for probes in [0, MAX_PROBES + 1, u32::MAX] {
        let hostile = JournalHeader { method: zo(probes), ..header() };
        let refused = refusal(&hostile.encode().0);
        assert!(refused.contains("probes per step"), "{refused}");
        let folder = tempfile::tempdir().unwrap();
        assert!(Journal::create(&folder.path().join("journal"), &hostile).is_err());
    }
    assert!(refusal(&[b'x'; 1000]).contains("not a qzo journal"));
    let (mut newer, _) = header().encode();
    newer[20] = 2;
    assert!(refusal(&newer).contains("perturbation version 2, expected 1"));
    let with_crc = |at: usize, value: u8| {
        let (mut bytes, _) = header().encode();
        bytes[at] = value;
        let crc = crc32fast::hash(&bytes[..HEADER_BYTES - 4]);
        bytes[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        refusal(&bytes)
    };
    assert!(with_crc(12, 71).contains("records of 71 bytes, expected 72"));
    assert!(with_crc(16, 2).contains("unknown method 2"));
}
