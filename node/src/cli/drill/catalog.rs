//! The drills there are.

/// One drill.
#[derive(Debug, Clone, Copy)]
pub struct Drill {
    pub name: &'static str,
    /// The alert that must come, and end.
    pub alert: &'static str,
    pub fault: Fault,
    /// How many times faster than in production, if nothing else is said.
    pub speed_up: u32,
    /// What in the rules is lowered, to what; no drill holds 100,000 connections.
    pub threshold: Option<(&'static str, &'static str)>,
}

/// What is broken, and mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    ServiceDown,
    MessageLoss,
    HighLatency,
    AckTimeout,
    ConnectionErrors,
    OfflineBacklog,
    TooManyConnections,
    ErrorBudget,
}

/// Connections above which the drill's rule rings.
pub const FEW_CONNECTIONS: usize = 50;

/// Five minutes are ten seconds.
const MINUTES: u32 = 30;
/// Thirty days are 90 seconds: only what has left that window is forgotten.
const MONTHS: u32 = 28_800;

const fn drill(name: &'static str, alert: &'static str, fault: Fault) -> Drill {
    Drill { name, alert, fault, speed_up: MINUTES, threshold: None }
}

/// All drills.
pub const DRILLS: [Drill; 8] = [
    drill("service-down", "IMGatewayServiceDown", Fault::ServiceDown),
    drill("message-loss", "HighMessageLossRate", Fault::MessageLoss),
    drill("high-latency", "HighMessageDeliveryLatency", Fault::HighLatency),
    drill("ack-timeout", "HighAckTimeoutRate", Fault::AckTimeout),
    drill("connection-errors", "HighConnectionErrorRate", Fault::ConnectionErrors),
    drill("offline-backlog", "HighOfflineQueueBacklog", Fault::OfflineBacklog),
    Drill {
        threshold: Some(("> 100000", "> 50")),
        ..drill("too-many-connections", "TooManyActiveConnections", Fault::TooManyConnections)
    },
    Drill { speed_up: MONTHS, ..drill("error-budget", "ErrorBudget80PercentConsumed", Fault::ErrorBudget) },
];

#[cfg(test)]
mod tests {
    use super::super::files::RULES;
    use super::*;

    #[test]
    fn each_has_its_alert_and_its_runbook() {
        let runbooks = include_str!("../../../../docs/runbooks.md");
        for drill in DRILLS {
            let alert = format!("- alert: {}\n", drill.alert);
            assert!(RULES.iter().any(|(_, rules)| rules.contains(&alert)), "{}", drill.alert);
            assert!(runbooks.contains(&format!("im-gateway drill {}", drill.name)), "no runbook names {}", drill.name);
            if let Some((shipped, lowered)) = drill.threshold {
                assert_eq!(
                    RULES.iter().map(|(_, rules)| rules.matches(shipped).count()).sum::<usize>(),
                    1,
                    "{shipped}"
                );
                assert!(lowered.ends_with(&FEW_CONNECTIONS.to_string()));
            }
        }
    }
}
