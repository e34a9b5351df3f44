"""What every frontend needs of the program around a merge: jobs, costs, the catalogue of LoRAs."""
