//! Kinds of strangers, and what the protocol has for each.

use crate::dice::Dice;
use crate::workload::Mix;

/// What nodes may always close with: they go down, cannot serve, or lost the client to themselves.
pub const ANY_TIME: [u16; 7] = [1000, 1001, 1012, 1013, 4001, 4002, 4502];

/// A kind of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stranger {
    /// Acknowledges nothing.
    Mute,
    /// Says nothing after its hello, not even that it lives.
    Silent,
    /// Sends what is no frame.
    Malformed,
    /// Sends a frame that is too large.
    Oversize,
    /// Sends a binary frame.
    Binary,
    /// Acknowledges what is still to come.
    Prophet,
    /// Sends as fast as it can, and does not read meanwhile.
    Flood,
    /// Comes with a token that has expired.
    Expired,
    /// Comes with a token that somebody else signed.
    Forged,
    /// Opens a WebSocket, and says nothing.
    Wordless,
    /// Sends any bytes.
    Noise,
    /// Sends any bytes, once a WebSocket is open.
    NoiseInside,
    /// Comes with a token that ends soon, and brings no new one.
    Lapsing,
    /// Many at once, who all want a session, and are gone.
    Storm(u64),
}

impl Stranger {
    const RUDE: [Self; 7] =
        [Self::Mute, Self::Silent, Self::Malformed, Self::Oversize, Self::Binary, Self::Prophet, Self::Flood];
    const HOSTILE: [Self; 5] = [Self::Expired, Self::Forged, Self::Wordless, Self::Noise, Self::NoiseInside];

    /// All of a mix; which kinds they are of is chance.
    pub fn all(mix: &Mix, dice: &Dice) -> Vec<Self> {
        let mut all = deal(&Self::RUDE, mix.rude, dice);
        all.extend(deal(&Self::HOSTILE, mix.hostile, dice));
        all.extend((0..mix.lapsing).map(|_| Self::Lapsing));
        all.extend((mix.storm > 0).then_some(Self::Storm(mix.storm)));
        all
    }

    /// How nodes close it, besides [`ANY_TIME`]; anything, if there is no rule.
    pub fn expected(self) -> Option<&'static [u16]> {
        Some(match self {
            Self::Mute | Self::Silent | Self::Storm(_) => &[],
            Self::Malformed | Self::Prophet => &[4503],
            Self::Oversize => &[1009],
            Self::Binary => &[1003],
            Self::Expired | Self::Lapsing => &[4501],
            Self::Forged => &[4500],
            Self::Wordless => &[4003],
            Self::Flood | Self::Noise | Self::NoiseInside => return None,
        })
    }

    /// Whether this code is the answer to what it does.
    pub fn is_answer(self, code: u16) -> bool {
        match self {
            Self::Silent => code == 4002,
            Self::NoiseInside => !ANY_TIME.contains(&code),
            kind => kind.expected().is_some_and(|expected| expected.contains(&code)),
        }
    }

    /// Whether it must not get a session.
    pub fn is_nobody(self) -> bool {
        matches!(self, Self::Expired | Self::Forged | Self::Wordless | Self::NoiseInside)
    }

    /// What is met when it is treated as the protocol says.
    pub fn point(self) -> &'static str {
        match self {
            Self::Mute => "a client that acknowledges nothing was kept",
            Self::Silent => "a silent client was given up",
            Self::Malformed => "malformed frames ended a connection",
            Self::Oversize => "too large a frame ended a connection",
            Self::Binary => "a binary frame ended a connection",
            Self::Prophet => "an acknowledgement of what was still to come ended a connection",
            Self::Flood => "a flood was answered",
            Self::Expired => "an expired token was refused",
            Self::Lapsing => "a session ended with its token",
            Self::Forged => "a forged token was refused",
            Self::Wordless => "a connection without a hello was ended",
            Self::Noise => "noise was refused",
            Self::NoiseInside => "noise in a WebSocket ended a connection",
            Self::Storm(_) => "a whole storm had its sessions",
        }
    }
}

/// So many of these kinds: none comes again before all have come.
fn deal(kinds: &[Stranger], count: u64, dice: &Dice) -> Vec<Stranger> {
    let mut deck = kinds.to_vec();
    for last in (1..deck.len()).rev() {
        deck.swap(last, dice.between(0, last as u64) as usize);
    }
    deck.into_iter().cycle().take(count as usize).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coverage::POINTS;

    #[test]
    fn no_kind_comes_again_before_all_have_come() {
        for seed in 0..50 {
            let dice = Dice::new(seed, "strangers");
            for count in 1..=9 {
                let mut kinds: Vec<_> =
                    deal(&Stranger::RUDE, count, &dice).into_iter().map(|kind| format!("{kind:?}")).collect();
                assert_eq!(kinds.len() as u64, count);
                kinds.sort();
                kinds.dedup();
                assert_eq!(kinds.len() as u64, count.min(7), "seed {seed}");
            }
        }
    }

    #[test]
    fn each_kind_has_a_point_of_its_own() {
        let mix = Mix { rude: 7, hostile: 5, storm: 1, ..Mix::default() };
        let mut points: Vec<_> =
            Stranger::all(&mix, &Dice::new(1, "strangers")).into_iter().map(Stranger::point).collect();
        assert!(points.iter().all(|point| POINTS.contains(point)));
        points.sort_unstable();
        points.dedup();
        assert_eq!(points.len(), 13);
    }
}
