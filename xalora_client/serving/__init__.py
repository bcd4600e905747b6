"""The protocol's server side, for devnet and cluster: requests checked, answers formed, inputs fetched."""
