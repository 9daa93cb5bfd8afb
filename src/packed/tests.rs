use super::*;

#[test]
fn codes_of_every_width_survive_packing_across_word_boundaries() {
    for bits in 1..=16 {
        let mut words = vec![0; words_per_row(45, bits)];
        let code = |i: usize| (i as u32 * 7 + 3) & (u32::MAX >> (32 - bits));
        (0..45).for_each(|i| put_code(&mut words, i, bits, code(i)));
        assert!((0..45).all(|i| get_code(&words, i, bits) == code(i)), "{bits} bits");
    }
}

#[test]
fn many_codes_are_packed_as_each_by_itself() {
    for bits in 1..=8 {
        for (start, count) in [(0, 0), (0, 32), (0, 77), (32, 64), (64, 7), (13, 40)] {
            let code = |i: usize| (i * 37 + 11) as u8 & (u8::MAX >> (8 - bits));
            let codes: Vec<u8> = (0..count).map(code).collect();
            let mut words = vec![0; words_per_row(start + count, bits)];
            put_codes(&mut words, start, bits, &codes);
            let mut expected = vec![0; words.len()];
            codes
                .iter()
                .enumerate()
                .for_each(|(i, c)| put_code(&mut expected, start + i, bits, u32::from(*c)));
            assert_eq!(words, expected, "{bits} bits, {start}, {count}");
        }
    }
}

#[test]
fn a_weight_that_contradicts_itself_is_named() {
    let weight = |width: usize, levels| PackedWeight {
        out_features: 2,
        in_features: 12,
        bits: 3,
        group_size: 8,
        codes: vec![0; 2 * (36 / width).div_ceil(32)],
        scales: vec![1.0; 4],
        levels,
        perm: Some((0..12).rev().collect()),
    };
    let zeros = weight(1, Levels::Zeros(vec![3; 4]));
    let minimum = weight(1, Levels::Minimum(vec![0.5; 4]));
    let codebook = |width, num_codebooks, length| {
        Levels::Codebook(Codebook { width, num_codebooks, entries: vec![0.5; length] })
    };
    let pairs = weight(2, codebook(2, 1, 16));
    let blocks = |width, scales: usize, mins: usize, min_scale| {
        let mins = Some((vec![1; mins], vec![min_scale; 4]));
        Levels::SubBlocks(SubBlocks::new(width, 0, vec![2; scales], mins))
    };
    let quads = weight(1, blocks(4, 6, 6, 0.5));
    for good in [&zeros, &minimum, &pairs, &quads] {
        good.check().unwrap();
    }
    type Change = fn(&mut PackedWeight);
    let cases: [(&PackedWeight, Change, &str); 15] = [
        (&zeros, |w| w.out_features = 0, "out_features is 0"),
        (&zeros, |w| w.in_features = usize::MAX, "in_features is"),
        (&zeros, |w| w.group_size = 0, "group_size is 0"),
        (&zeros, |w| w.bits = 9, "codes of 9 bits"),
        (&pairs, |w| w.bits = 17, "codes of 17 bits"),
        (&zeros, |w| w.bits = 0, "codes of 0 bits"),
        (&zeros, |w| w.codes.truncate(3), "3 words of codes, expected 4"),
        (&zeros, |w| w.scales.push(1.0), "5 scales, expected 4"),
        (&zeros, |w| w.scales[2] = f32::NAN, "a scale that is not finite"),
        (&zeros, |w| w.levels = Levels::Zeros(vec![3; 5]), "5 zero points"),
        (&minimum, |w| w.levels = Levels::Minimum(vec![f32::INFINITY; 4]), "a minimum that"),
        (&pairs, |w| w.group_size = 7, "vectors of 2 do not fill"),
        (&zeros, |w| w.perm = Some(vec![0; 12]), "an order that does not name each of 12"),
        (&zeros, |w| w.perm = Some((1..13).collect()), "an order that"),
        (&zeros, |w| w.perm = Some((0..11).collect()), "an order that"),
    ];
    for (good, change, expected) in cases {
        let mut bad = good.clone();
        change(&mut bad);
        let error = bad.check().unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    for (width, num_codebooks, length, expected) in [
        (2, 1, 15, "15 values of codebooks, expected 16"),
        (0, 1, 0, "vectors of 0"),
        (2, 0, 0, "0 codebooks"),
        (usize::MAX, 1, 16, "vectors of"),
    ] {
        let error = weight(2, codebook(width, num_codebooks, length)).check().unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    for (levels, expected) in [
        (blocks(0, 6, 6, 0.5), "sub-blocks of 0 do not fill groups of 8"),
        (blocks(3, 8, 8, 0.5), "sub-blocks of 3"),
        (blocks(4, 5, 6, 0.5), "11 scales and minima of sub-blocks, expected 12"),
        (blocks(4, 6, 7, 0.5), "13 scales and minima of sub-blocks, expected 12"),
        (blocks(4, 6, 6, f32::NAN), "a scale of minima that is not finite"),
    ] {
        let error = weight(1, levels).check().unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn a_layout_counts_bytes_without_the_weight() {
    let bytes = |bits, levels, ordered| {
        let layout = PackedLayout { bits, group_size: 64, levels, ordered };
        let shape = [10, 600];
        [layout.code_bytes(shape), layout.scale_bytes(shape), layout.level_bytes(shape)]
    };
    // 1800 bits are 57 words, and 600 features 10 groups.
    assert_eq!(bytes(3, LevelsKind::Zero, false), [10 * 57 * 4, 400, 0]);
    assert_eq!(bytes(3, LevelsKind::Zeros, true), [10 * 57 * 4, 400, 100 + 4 * 600]);
    assert_eq!(bytes(3, LevelsKind::Minimum, false), [10 * 57 * 4, 400, 400]);
    let blocks = |mins| LevelsKind::SubBlocks { width: 16, mins };
    assert_eq!(bytes(3, blocks(false), false), [10 * 57 * 4, 400, 10 * 38]);
    assert_eq!(bytes(3, blocks(true), false), [10 * 57 * 4, 400, 10 * 38 * 2 + 400]);
    let pairs = LevelsKind::Codebook { width: 2, num_codebooks: 1 };
    assert_eq!(bytes(6, pairs, false), [10 * 57 * 4, 400, 64 * 2 * 4]);
    let octets = LevelsKind::Codebook { width: 8, num_codebooks: 2 };
    assert_eq!(bytes(8, octets, true), [10 * 38 * 4, 400, 2 * 256 * 8 * 4 + 4 * 600]);
}
