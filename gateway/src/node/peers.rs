//! The part of a node that speaks with its peers: who it is to them, where they reach it, where they may be.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use tokio::time::{Duration, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::NodeSide;
use crate::cluster::discovery::{self, Announcement, Discovery, DiscoveryError};
use crate::cluster::peer::client::{ClientLimits, PeerClient};
use crate::cluster::peer::server::{PeerServer, ServerError, ServerLimits};
use crate::cluster::peer::trust::{ClusterSecret, Trust, TrustError};
use crate::config::ClusterSettings;
use crate::gateway::PeerOptions;

/// How long the listener and the sources may take to end.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Why a node cannot speak with peers.
#[derive(Debug, thiserror::Error)]
pub enum PeersError {
    /// The secret, or what derives from it.
    #[error("the cluster's trust cannot be set up")]
    Trust(#[from] TrustError),
    /// The peer listener.
    #[error("the peer listener does not start")]
    Listen(#[from] ServerError),
    /// `--discovery`.
    #[error("--discovery")]
    Discovery(#[from] DiscoveryError),
    /// No address that peers could use.
    #[error("peers cannot reach {0}: give --peer-advertise HOST:PORT")]
    Advertise(String),
}

/// Listener, client and discovery, at work.
pub(super) struct PeerPart {
    options: PeerOptions,
    client: Arc<PeerClient>,
    discovery: Discovery,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl PeerPart {
    /// Listens and looks for peers; answers them once the cluster is attached to it.
    pub(super) async fn start(settings: &ClusterSettings, api: String) -> Result<Self, PeersError> {
        let secret = ClusterSecret::new(settings.secret.expose())?;
        let sources = discovery::parse(&settings.discovery)?;
        let trust = Trust::new(&secret, &settings.name, None)?;
        let server = PeerServer::bind(&settings.peer_listen, Arc::clone(&trust), ServerLimits::default()).await?;
        let advertise = match &settings.peer_advertise {
            Some(address) => address.clone(),
            None => advertised(server.address())?,
        };
        let announcement = Announcement {
            cluster: settings.name.clone(),
            port: advertise.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(server.address().port()),
            address: advertise.parse().ok().map(|address: SocketAddr| address.ip()),
        };
        let discovery = Discovery::start(&sources, &announcement);
        let client = Arc::new(PeerClient::new(Arc::clone(&trust), ClientLimits::default())?);
        let side = NodeSide::new();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(server.serve(Arc::clone(&side) as _, stop.clone()));
        tasks.spawn(stop.clone().run_until_cancelled_owned(follow_identity(Arc::clone(&side), trust)));
        tasks.close();
        tracing::info!(cluster = settings.name, advertise, "peers are looked for");
        let options = PeerOptions {
            name: settings.name.clone(),
            transport: Arc::clone(&client) as _,
            side,
            advertise,
            api,
            candidates: discovery.candidates(),
            expect: settings.bootstrap_expect,
        };
        Ok(Self { options, client, discovery, tasks, stop })
    }

    pub(super) fn options(&self) -> PeerOptions {
        self.options.clone()
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        let ended = timeout(STOP_WITHIN, async {
            self.discovery.stop().await;
            self.client.close().await;
            self.tasks.wait().await;
        });
        if ended.await.is_err() {
            tracing::warn!("the peer listener did not end in time");
        }
    }
}

/// From the moment that a node knows its id, its certificate names it.
async fn follow_identity(side: Arc<NodeSide>, trust: Arc<Trust>) {
    let mut identity = side.identity();
    loop {
        let node = identity.borrow_and_update().as_ref().map(|identity| identity.node_id);
        if let Some(node) = node
            && let Err(error) = trust.set_node(node)
        {
            tracing::error!(%error, node, "no certificate can be made for this node");
        }
        if identity.changed().await.is_err() {
            return;
        }
    }
}

/// Where peers reach a listener: its address, or that of the interface which leads out.
fn advertised(listener: SocketAddr) -> Result<String, PeersError> {
    if !listener.ip().is_unspecified() {
        return Ok(listener.to_string());
    }
    // Nothing is sent: connecting a datagram socket only asks for the route. The address is one that documents use.
    let outside = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).and_then(|()| socket.local_addr()));
    match outside.map(|address| address.ip()) {
        Ok(IpAddr::V4(ip)) if !ip.is_loopback() => Ok(SocketAddr::from((ip, listener.port())).to_string()),
        _ => Err(PeersError::Advertise(listener.to_string())),
    }
}
