"""What the three scripts do with the stages: run, plan, pack, launch in several processes, sum a sweep up."""
