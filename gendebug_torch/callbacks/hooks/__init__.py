"""What the callbacks share: reading steps, logging, evaluating the training sample."""
