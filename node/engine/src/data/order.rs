//! A seeded permutation that needs no table.

/// Rounds of the Feistel network.
const ROUNDS: u64 = 6;

/// Where permutation (`seed`, `epoch`) of 0..n sends `index`, which is below n: a Feistel network on the next even
/// power of two, walked until it lands below n (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
pub fn permute(seed: u64, epoch: u64, n: u64, index: u64) -> u64 {
    let half_bits = (u64::BITS - n.saturating_sub(1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1u64 << half_bits) - 1;
    let key = mix(seed ^ mix(epoch));
    let mut value = index;
    loop {
        let (mut left, mut right) = (value >> half_bits, value & mask);
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ (mix(key ^ mix(right ^ (round << 48))) & mask));
        }
        value = left << half_bits | right;
        // The domain is at most four times n, and the walk is a cycle through `index`, so it ends.
        if value < n {
            return value;
        }
    }
}

/// SplitMix64's finaliser.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_epoch_is_a_permutation_of_its_own() {
        for n in [1u64, 2, 3, 7, 64, 65, 1000] {
            let epochs: Vec<Vec<u64>> =
                (0..2).map(|epoch| (0..n).map(|index| permute(7, epoch, n, index)).collect()).collect();
            for epoch in &epochs {
                let mut sorted = epoch.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..n).collect::<Vec<_>>());
            }
            assert!(n < 64 || epochs[0] != epochs[1]);
            assert!(n < 64 || epochs[0] != (0..n).map(|i| permute(8, 0, n, i)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn neighbours_are_sent_apart() {
        let near = (0..999).filter(|i| permute(1, 0, 1000, *i).abs_diff(permute(1, 0, 1000, i + 1)) < 10).count();
        assert!(near < 60, "{near} of 999 neighbours stay within 10, about 19 expected");
    }
}
