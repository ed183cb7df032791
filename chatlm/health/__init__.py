"""What keeps a sick training from doing harm: spikes, values not finite, memory that runs out."""
